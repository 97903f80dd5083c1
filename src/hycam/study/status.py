"""The state of each cell for ``--status``, ``--dry-run`` and reports: its outcome, its cost, and why it failed.

The process that runs a study writes what it is doing to the study's folder, for ``--status`` in another process.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.lock import LOCK_FILE
from hycam.study.cells import Cell, names_of
from hycam.study.grid import runs_folder
from hycam.study.plan import Plan
from hycam.study.results import Result, cells_folder
from hycam.training.run import BASE

_FILE = ".running.json"
STATES = ("done", "running", "failed", "diverged", "unusable", "to go")


@dataclass(frozen=True)
class Doing:
    """What a running cell is doing, and its start (Unix time)."""

    since: float
    what: str

    @property
    def seconds(self) -> float:
        return time.time() - self.since


def note(folder: Path, doing: Mapping[str, Doing]) -> None:
    """Writes which cells run, by identity; removes the file if none does."""
    path = folder / _FILE
    if not doing:
        path.unlink(missing_ok=True)
        return
    with suppress(HycamError):  # only informative; if the disk is full, the next result reports it
        write_whole(path, json.dumps({identity: asdict(one) for identity, one in doing.items()}))


def running(folder: Path) -> Mapping[str, Doing]:
    """The cells that another process is running in this folder, by identity.

    A killed process leaves its file behind, so the file only counts while the lock is held.
    """
    try:
        if not _is_held(folder / LOCK_FILE):
            return {}
        content = json.loads((folder / _FILE).read_text())
        return {identity: Doing(float(value["since"]), str(value["what"])) for identity, value in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # gone or damaged; it is only informative


def _is_held(lock: Path) -> bool:
    with lock.open() as handle:  # read-only, so that a read-only study can be inspected
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(frozen=True)
class CellState:
    """The state of a cell (one of :data:`STATES`), the reason and step of a failure, and the seconds it took."""

    cell: Cell
    state: str
    reason: str | None = None
    step: int | None = None
    seconds: float | None = None


def cell_states(plan: Plan, now: Mapping[str, Doing] | None = None) -> list[CellState]:
    """The state of every cell, in grid order; ``now`` are the running ones, by identity."""
    results = {one.identity: one for one in (*plan.results.done, *plan.results.failed)}
    unusable = {path.name: reason for path, reason in plan.results.unusable.items()}
    states = []
    for cell in plan.cells:
        one, doing = results.get(cell.identity), (now or {}).get(cell.identity)
        if doing is not None:
            states.append(CellState(cell, "running", seconds=doing.seconds))
        elif cell.file_name in unusable:
            states.append(CellState(cell, "unusable", unusable[cell.file_name]))
        elif one is None:
            states.append(CellState(cell, "to go"))
        else:
            failure = one.content.get("failure", {"reason": None, "step": None})
            states.append(CellState(cell, one.state, failure["reason"], failure["step"], one.content["seconds"]))
    return states


def counted(states: Iterable[CellState]) -> dict[str, int]:
    """The number of cells in each state."""
    found = [one.state for one in states]
    return {state: found.count(state) for state in STATES}


@dataclass(frozen=True)
class Estimate:
    """Estimates the seconds of a cell from finished cells of its method and backbone, else its backbone, else all.

    Training time scales with the planned tokens; the rest (loading, evaluation) is the same for each cell.
    """

    done: Sequence[Result]

    def seconds(self, cell: Cell) -> float | None:
        """None while nothing similar was measured."""
        is_trained = cell.recipe.method.name != BASE
        known = [one for one in self.done if one.training or not is_trained]
        near = [one for one in known if (one.backbone, one.method) == (cell.backbone, cell.method)]
        near = near or [one for one in known if one.backbone == cell.backbone] or known
        if not near:
            return None
        rates = [one.training["seconds"] / one.training["tokens"] for one in near if one.training]
        rest = fmean(one.content["seconds"] - (one.training["seconds"] if one.training else 0.0) for one in near)
        return rest + (fmean(rates) if rates else 0.0) * cell.planned_tokens

    def left(self, cells: Iterable[Cell], spent: Mapping[str, float]) -> float | None:
        """Seconds to run these cells one after the other; ``spent`` is the time so far of running ones, by identity."""
        left = 0.0
        for cell in cells:
            seconds = self.seconds(cell)
            if seconds is None:
                return None
            left += max(0.0, seconds - spent.get(cell.identity, 0.0))
        return left


def listing(plan: Plan) -> dict[str, Any]:
    """The study's cells as ``--json`` prints them.

    Returns:
        ``states`` (the number of cells in each), ``estimated_seconds`` (of the rest, one cell after the other; null
        while nothing was measured) and ``cells``, each with its labels, ``name``, ``identity``, ``file``, ``state``,
        ``reason`` (of a failure or an unusable file), ``doing`` (if it is running), ``planned_tokens``, ``seconds``
        (taken so far) and ``estimated_seconds`` (if it is still to run).
    """
    now = running(Path(plan.study.output))
    states = cell_states(plan, now)
    estimate, to_go = Estimate(plan.results.done), plan.to_go
    ahead = {cell.identity for cell in to_go}
    cells = [
        {
            "name": one.cell.name,
            **one.cell.labels,
            "identity": one.cell.identity,
            "file": one.cell.file_name,
            "state": one.state,
            "reason": one.reason,
            "doing": now[one.cell.identity].what if one.state == "running" else None,
            "planned_tokens": one.cell.planned_tokens,
            "seconds": one.seconds,
            "estimated_seconds": estimate.seconds(one.cell) if one.cell.identity in ahead else None,
        }
        for one in states
    ]
    left = estimate.left(to_go, {identity: doing.seconds for identity, doing in now.items()})
    return {"states": counted(states), "estimated_seconds": left, "cells": cells}


def show(plan: Plan, console: Console, every_cell: bool) -> None:
    """Prints the study's progress, its running cells (or every cell), and why some have no result."""

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)  # the terminal wraps long lines

    found = listing(plan)
    names = names_of(plan.cells)
    shown = [cell for cell in found["cells"] if every_cell or cell["state"] == "running"]
    reasons = [cell for cell in found["cells"] if cell["reason"]]
    if names.common and (shown or reasons):
        say(f"All cells: {names.common}")
    if shown:
        console.print(_table(shown, names.short))
    for cell in reasons:
        where = f" ({cells_folder(plan.study.output) / cell['file']})" if cell["state"] == "unusable" else ""
        say(f"{names.short[cell['identity']]}: {cell['state']}{where}: {cell['reason']}")
    say(_summary(plan, found))
    for (backbone, method), best in plan.best.items():
        edge = ", at the edge of what was tried" if best.at_edge else ""
        say(
            f"{backbone}, {method}: learning rate {best.rate:g} ({best.label}; validation NLL {best.nll:.4f}; tried "
            f"{best.trials}{edge})"
        )
    say(f"Results: {cells_folder(plan.study.output)}; adapters and answers: {runs_folder(plan.study)}")


def _table(cells: list[dict[str, Any]], names: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cell", "state", "tokens", "time", ""):
        table.add_column(name, justify="right" if name in ("tokens", "time") else "left")
    for cell in cells:
        tokens = f"{cell['planned_tokens']:,}"
        table.add_row(Text(names[cell["identity"]]), cell["state"], tokens, _time(cell), Text(cell["doing"] or ""))
    return table


def _time(cell: Mapping[str, Any]) -> str:
    """The time that a cell took, or the estimate for one that is still to run."""
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
        tail = "; the time is unknown until one was measured (--cells 1 runs one)"
    else:
        tail = ""
    return f"{len(plan.cells)} cells: {states}{tail}"


def spelled(seconds: float | None) -> str:
    """``1:05:09`` for 3,909 seconds."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
