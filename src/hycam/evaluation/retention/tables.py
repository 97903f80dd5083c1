"""Retention on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_KL = {"lambada": "passages of LAMBADA", "replies": "of the base's own replies"}


def print_retention(found: Mapping[str, Any], console: Console) -> None:
    """Prints what :func:`hycam.evaluation.retention.measure.measure` gave."""
    if found["tasks"]:
        console.print(_tasks(found["tasks"]))
        console.print(
            "Bits per byte of the right continuation: lower is better. Difference: mean over rows; above 0: worse.\n"
        )
    for name, kl in found["kl"].items():
        per_token = f"{kl['mean']:.4g} nats per token ({kl['tokens']:,} tokens)"
        console.print(f"KL(base || adapted) on {kl['texts']} {_KL[name]}: {per_token}")
    for name, reason in found["excluded"].items():
        console.print(f"{name} is left out: {reason}.")


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    for column in ("rows", "bits/byte", "base", "difference", "accuracy", "base"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in tasks.items():
        table.add_row(
            name,
            f"{figures['rows']:,}",
            *(f"{figures[key]:.4f}" for key in ("bits_per_byte", "base_bits_per_byte")),
            f"{figures['difference']:+.4f}",
            *("-" if figures[key] is None else f"{figures[key]:.3f}" for key in ("accuracy", "base_accuracy")),
        )
    return table
