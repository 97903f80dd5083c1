"""Runs what is left of a study, cell by cell, and keeps each result as it comes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hycam.lock import alone
from hycam.study.cells import Cell
from hycam.study.display import Display
from hycam.study.executors.events import Executor, Finished
from hycam.study.executors.local import LocalExecutor
from hycam.study.plan import Plan, keep, planned, planner_of
from hycam.study.recipe import ExecutorRecipe, StudyRecipe
from hycam.study.results import cells_folder, write


def run_study(study: StudyRecipe, display: Display, most_cells: int | None = None) -> Plan:
    """Runs every cell without a result; a sweep goes on until no best learning rate is at an edge.

    A result is written whole when its cell ends, so an interruption costs at most what the running cells did since
    their last checkpoints. A cell that fails is kept as failed and the others go on; it is tried again next time.

    Args:
        study: what to run.
        display: told what happens.
        most_cells: run at most so many cells.

    Returns:
        the plan with all results.

    Raises:
        HycamError: another process runs this study, the study does not work, or the disk is full.
    """
    folder = Path(study.output)
    chosen = executor(study.executor)
    with alone(folder, "runs the study in", "`--status` shows how far it is."):
        planner = planner_of(study, display.update)
        current = keep(planned(planner))
        tried: set[str] = set()
        while waiting := _waiting(current, tried, most_cells):
            display.begin(current)
            _run(chosen, waiting, folder, display)
            tried |= {cell.identity for cell in waiting}
            current = keep(replace(planned(planner), counts=current.counts))
        return current


def _waiting(current: Plan, tried: set[str], most_cells: int | None) -> list[Cell]:
    """What is to run next: no cell twice in one go."""
    cells = [cell for cell in current.to_go if cell.identity not in tried]
    return cells if most_cells is None else cells[: most_cells - len(tried)]


def executor(recipe: ExecutorRecipe) -> Executor:
    """What runs the cells; raises HycamError where it needs a package that is not installed."""
    if recipe.name == "ray":
        from hycam.study.executors.ray import RayExecutor  # an extra: the others work without it

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
