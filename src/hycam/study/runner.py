"""Runs the remaining cells of a study and writes each result as it arrives."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hycam.lock import alone
from hycam.study.cells import Cell
from hycam.study.display import Display
from hycam.study.executors import Executor, Finished
from hycam.study.executors.local import LocalExecutor
from hycam.study.plan import Plan, keep, planned, planner_of
from hycam.study.recipe import ExecutorRecipe, StudyRecipe
from hycam.study.results import cells_folder, write


def run_study(study: StudyRecipe, display: Display, most_cells: int | None = None) -> Plan:
    """Runs every cell without a result; a sweep continues until no best learning rate is at an edge.

    A result is written whole when its cell ends, so an interruption loses at most the work of the running cells since
    their last checkpoints. A failed cell is recorded and the others continue; the next run tries it again.

    Args:
        study: what to run.
        display: receives the events.
        most_cells: run at most this many cells.

    Returns:
        the plan with all results.

    Raises:
        HycamError: another process runs this study, the study is invalid, or the disk is full.
    """
    folder = Path(study.output)
    chosen = executor(study.executor)
    with alone(folder, "runs the study in", "`--status` shows its progress."):
        planner = planner_of(study, display.update)
        current = keep(planned(planner))
        tried: set[str] = set()
        left = most_cells
        while waiting := [cell for cell in current.to_go if cell.identity not in tried][:left]:
            display.begin(current)
            _run(chosen, waiting, folder, display)
            tried |= {cell.identity for cell in waiting}  # no cell runs twice in one go
            left = None if left is None else left - len(waiting)
            current = keep(replace(planned(planner), counts=current.counts))
        return current


def executor(recipe: ExecutorRecipe) -> Executor:
    """The executor that a recipe names; raises HycamError if its package is not installed."""
    if recipe.name == "ray":
        from hycam.study.executors.ray import RayExecutor  # needs an extra

        return RayExecutor(recipe)
    return LocalExecutor(recipe)


def _run(chosen: Executor, cells: list[Cell], folder: Path, display: Display) -> None:
    try:
        with closing(chosen.run(cells)) as events:
            for event in events:
                if isinstance(event, Finished):
                    write(cells_folder(folder), event.cell, event.state, event.content)
                display.tell(event)
    finally:
        display.end()
