"""``hycam study STUDY``: a grid of methods x backbones x folds x settings; resumes, and goes on past a failed cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from hycam.console import Reporter, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.study.display import Display
from hycam.study.plan import Plan, plan
from hycam.study.recipe import StudyRecipe
from hycam.study.runner import run_study
from hycam.study.status import spelled
from hycam.training.parse import parse_recipe

_FLAGS = ("--status", "--dry-run", "--json")
_DESCRIPTION = """Runs a study, cell by cell; continues where it stopped, and past a cell that fails.
--dry-run prints the cells and what they will cost; --status what has become of them; both take --json.
--cells N runs at most N cells, such as one to measure."""


def main(arguments: Sequence[str]) -> None:
    """Parses the study and its overrides, and runs it or shows its cells."""
    words = list(arguments)
    flags = {flag for flag in _FLAGS if flag in words}
    words = [word for word in words if word not in _FLAGS]
    most = _most_cells(words)
    study = parse_recipe(StudyRecipe, words, prog="hycam study", description=_DESCRIPTION)
    quiet_libraries(informative=False)
    if flags & {"--status", "--dry-run"}:
        with Reporter() as reporter:
            current = plan(study, reporter.update)
        _show(current, as_json="--json" in flags, every_cell="--dry-run" in flags)
        return
    if "--json" in flags:
        raise UsageError("--json belongs to --status and --dry-run.")
    with Display(study.executor.workers) as display:
        current = run_study(study, display.begin, display.tell, most)
    _show(current, as_json=False, every_cell=False)
    if current.results.failed or current.results.unusable:
        raise HycamError(
            f"{len(current.results.failed)} cells failed or diverged and {len(current.results.unusable)} result files "
            "cannot be used; the others are complete. The next run tries the failed ones again."
        )


def _most_cells(words: list[str]) -> int | None:
    """Takes ``--cells N`` out of the words."""
    if "--cells" not in words:
        return None
    at = words.index("--cells")
    value = words[at + 1] if at + 1 < len(words) else ""
    if not value.isdigit() or int(value) < 1:
        raise UsageError(f"--cells needs a number above 0, not {value or 'nothing'}.")
    del words[at : at + 2]
    return int(value)


def _show(current: Plan, as_json: bool, every_cell: bool) -> None:
    summary = _summary(current)
    if as_json:
        print(json.dumps({**summary, "cells": _cells(current)}, indent=2))
        return
    console = Console()
    if every_cell or current.results.failed or current.results.unusable:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("cell", "state", "tokens", "seconds", ""):
            table.add_column(name, justify="right" if name in ("tokens", "seconds") else "left")
        for cell in _cells(current):
            if every_cell or cell["state"] not in ("done", "to go"):
                seconds = cell["seconds"] if cell["seconds"] is not None else cell["estimated_seconds"]
                table.add_row(cell["name"], cell["state"], f"{cell['planned_tokens']:,}",
                              "-" if seconds is None else f"{seconds:.0f}", cell["reason"] or "")  # fmt: skip
        console.print(table)
    left = summary["estimated_seconds"]
    states = ", ".join(f"{count} {state}" for state, count in summary["states"].items() if count)
    workers = current.study.executor.workers
    estimate = f"; the rest takes about {spelled(left / workers)}" if left else ""
    if summary["states"]["to go"] and left is None:
        estimate = "; how long is not known before one was measured (--cells 1 runs one)"
    console.print(f"{len(current.cells)} cells: {states}{estimate}", highlight=False)
    for (backbone, method), found in current.best.items():
        edge = ", at the edge of what was tried" if found.at_edge else ""
        console.print(
            f"{backbone}, {method}: learning rate {found.rate:g} ({found.label}; validation NLL {found.nll:.4f}, "
            f"{found.trials} trials{edge})", highlight=False,
        )  # fmt: skip
    console.print(f"Results: {current.study.output}/cells", highlight=False)


def _summary(current: Plan) -> dict[str, Any]:
    states = {"done": 0, "failed": 0, "diverged": 0, "unusable": 0, "to go": 0}
    for cell in _cells(current):
        states[cell["state"]] += 1
    return {"states": states, "estimated_seconds": current.status.estimate.total(current.status.to_go)}


def _cells(current: Plan) -> list[dict[str, Any]]:
    results = {one.identity: one for one in current.results.done + current.results.failed}
    unusable = {path.name: reason for path, reason in current.results.unusable.items()}
    estimate = current.status.estimate
    rows = []
    for cell in current.cells:
        result = results.get(cell.identity)
        reason = unusable.get(cell.file_name) or (result and result.content.get("failure", {}).get("reason"))
        rows.append(
            {
                "name": cell.name,
                **cell.labels,
                "identity": cell.identity,
                "file": cell.file_name,
                "state": "unusable" if cell.file_name in unusable else result.state if result else "to go",
                "reason": reason or None,
                "planned_tokens": cell.planned_tokens,
                "seconds": result.content["seconds"] if result else None,
                "estimated_seconds": None if result else estimate.seconds(cell),
            }
        )
    return rows
