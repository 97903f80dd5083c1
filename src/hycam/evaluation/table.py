"""An evaluation, and retention, as tables on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_FIGURES = {"perplexity": "perplexity", "bleu4": "BLEU-4", "rougeL": "ROUGE-L"}
_KL = {"lambada": "passages of LAMBADA", "replies": "of the base's own replies"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """A row for each task and for their aggregates, a column for each figure; below, how the answers were scored."""
    table = Table(box=None, padding=(0, 2, 0, 0), caption=Text(_how(metrics)), caption_justify="left")
    table.add_column("task", no_wrap=True)
    for title in _FIGURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    # Macro figures of BLEU-4 and ROUGE-L are arithmetic means already; of perplexity it stands beside the headline.
    mean = {"perplexity": metrics["macro"]["perplexity_mean"], "bleu4": None, "rougeL": None}
    rows = {**metrics["tasks"], "macro": metrics["macro"], "arithmetic mean": mean, "pooled": metrics["pooled"]}
    for name, figures in rows.items():
        table.add_row(name, *("-" if figures[key] is None else f"{figures[key]:.3f}" for key in _FIGURES))
    return table


def _how(metrics: Mapping[str, Any]) -> str:
    """What is counted in the answers, by task where the tasks differ."""
    tasks: dict[str, list[str]] = {}
    for name, figures in metrics["tasks"].items():
        if signature := figures["bleu_signature"]:
            tasks.setdefault(f"BLEU-4 {signature}, ROUGE-L of {figures['rouge_tokens']} words", []).append(name)
    return "\n".join(how if len(tasks) == 1 else f"{', '.join(names)}: {how}" for how, names in tasks.items())


def print_retention(found: Mapping[str, Any], console: Console) -> None:
    """Prints what :func:`hycam.evaluation.retention.measure.measure` gave."""
    if found["tasks"]:
        console.print(_retention_table(found["tasks"]))
        console.print(
            "Bits per byte of the right continuation: lower is better. Difference: mean over rows; above 0: worse.\n"
        )
    for name, kl in found["kl"].items():
        per_token = f"{kl['mean']:.4g} nats per token ({kl['tokens']:,} tokens)"
        console.print(f"KL(base || adapted) on {kl['texts']} {_KL[name]}: {per_token}")
    for name, reason in found["excluded"].items():
        console.print(f"{name} is left out: {reason}.")


def _retention_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
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
