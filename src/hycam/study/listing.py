"""What ``--status`` and ``--dry-run`` show: of each cell what has become of it, what it costs, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hycam.study.cells import runs_folder
from hycam.study.names import names_of
from hycam.study.plan import Plan
from hycam.study.results import cells_folder
from hycam.study.running import Doing, running
from hycam.study.status import spelled

_STATES = ("done", "running", "failed", "diverged", "unusable", "to go")


def listing(plan: Plan) -> dict[str, Any]:
    """The study's cells as ``--json`` prints them.

    Returns:
        ``states`` (how many cells are in each), ``estimated_seconds`` (of all that is left, one cell after the other;
        null while nothing was measured) and ``cells``: ``name``, what the cell is, ``identity``, ``file``, ``state``,
        ``reason`` (of failure, divergence or a file that cannot be used), ``doing`` (of a running cell),
        ``planned_tokens``, ``seconds`` (it took, or runs so far) and ``estimated_seconds`` (where it is to run).
    """
    now = running(Path(plan.study.output))
    cells = _cells(plan, now)
    states = {state: sum(cell["state"] == state for cell in cells) for state in _STATES}
    spent = {identity: doing.seconds for identity, doing in now.items()}
    return {
        "states": states,
        "estimated_seconds": plan.status.estimate.left(plan.status.to_go, spent),
        "cells": cells,
    }


def show(plan: Plan, console: Console, every_cell: bool) -> None:
    """Prints how far the study is, the cells that run (or every one), and why some have no result."""
    found = listing(plan)
    names = names_of(plan.cells)
    shown = [cell for cell in found["cells"] if every_cell or cell["state"] == "running"]
    reasons = [cell for cell in found["cells"] if cell["reason"]]
    if names.common and (shown or reasons):
        _say(console, f"All cells: {names.common}")
    if shown:
        console.print(_table(shown, names.short))
    for cell in reasons:
        where = f" ({cells_folder(plan.study.output) / cell['file']})" if cell["state"] == "unusable" else ""
        _say(console, f"{names.short[cell['identity']]}: {cell['state']}{where}: {cell['reason']}")
    _say(console, _summary(plan, found))
    for (backbone, method), best in plan.best.items():
        edge = ", at the edge of what was tried" if best.at_edge else ""
        _say(
            console,
            f"{backbone}, {method}: learning rate {best.rate:g} ({best.label}; validation NLL {best.nll:.4f}; tried "
            f"{best.trials}{edge})",
        )
    _say(console, f"Results: {cells_folder(plan.study.output)}; adapters and answers: {runs_folder(plan.study)}")


def _say(console: Console, line: str) -> None:
    """A line as it is, however long: whatever shows it folds it."""
    console.print(Text(line), soft_wrap=True)


def _cells(plan: Plan, now: Mapping[str, Doing]) -> list[dict[str, Any]]:
    results = {one.identity: one for one in plan.results.done + plan.results.failed}
    unusable = {path.name: reason for path, reason in plan.results.unusable.items()}
    to_go = {cell.identity for cell in plan.status.to_go}
    estimate = plan.status.estimate
    rows = []
    for cell in plan.cells:
        result, doing = results.get(cell.identity), now.get(cell.identity)
        state, reason, seconds = "to go", None, None
        if doing is not None:
            state, seconds = "running", doing.seconds
        elif cell.file_name in unusable:
            state, reason = "unusable", unusable[cell.file_name]
        elif result is not None:
            state, seconds = result.state, result.content["seconds"]
            reason = result.content["failure"]["reason"] if state != "done" else None
        rows.append(
            {
                "name": cell.name,
                **cell.labels,
                "identity": cell.identity,
                "file": cell.file_name,
                "state": state,
                "reason": reason,
                "doing": doing.what if doing else None,
                "planned_tokens": cell.planned_tokens,
                "seconds": seconds,
                "estimated_seconds": estimate.seconds(cell) if cell.identity in to_go else None,
            }
        )
    return rows


def _table(cells: list[dict[str, Any]], names: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cell", "state", "tokens", "time", ""):
        table.add_column(name, justify="right" if name in ("tokens", "time") else "left")
    for cell in cells:
        tokens = f"{cell['planned_tokens']:,}"
        table.add_row(Text(names[cell["identity"]]), cell["state"], tokens, _time(cell), Text(cell["doing"] or ""))
    return table


def _time(cell: Mapping[str, Any]) -> str:
    """What a cell took or takes; of one that is to run what it will take, as far as that is known."""
    estimated, seconds = cell["estimated_seconds"], cell["seconds"]
    about = "" if estimated is None else f"about {spelled(estimated)}"
    if cell["state"] == "running":
        return f"{spelled(seconds)} of {about}" if about else spelled(seconds)
    return about if about or seconds is None else spelled(seconds)


def _summary(plan: Plan, found: Mapping[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items() if count)
    left, at_once = found["estimated_seconds"], plan.study.executor.at_once
    if left:
        tail = f"; the rest takes about {spelled(left / at_once)}"
    elif left is None:
        tail = "; how long is not known before one was measured (--cells 1 runs one)"
    else:
        tail = ""
    return f"{len(plan.cells)} cells: {states}{tail}"
