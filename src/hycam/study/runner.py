"""Runs what is left of a study, cell by cell, and keeps each result as it comes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import yaml

from hycam.files import write_whole
from hycam.lock import alone
from hycam.study.cells import Cell
from hycam.study.executors.events import Event, Executor, Finished
from hycam.study.executors.local import LocalExecutor
from hycam.study.plan import STUDY_FILE, Plan, planned, planner_of
from hycam.study.recipe import ExecutorRecipe, StudyRecipe
from hycam.study.results import cells_folder, write
from hycam.study.running import Board


class Watcher(Protocol):
    """Who wants to know how a study goes."""

    def update(self, what: str, done: int, total: int) -> None:
        """So far the data are prepared."""

    def begin(self, plan: Plan) -> None:
        """These cells are known; told again when a sweep was extended."""

    def tell(self, event: Event) -> None:
        """Something happened to a cell."""


def run_study(study: StudyRecipe, watcher: Watcher, most_cells: int | None = None) -> Plan:
    """Runs every cell without a result; a sweep goes on until no best learning rate is at an edge.

    A result is written whole when its cell ends, so an interruption costs at most what the running cells did since
    their last checkpoints. A cell that fails is kept as failed and the others go on; it is tried again next time.

    Args:
        study: what to run.
        watcher: told what happens.
        most_cells: run at most so many cells.

    Returns:
        the plan with all results.

    Raises:
        HycamError: another process runs this study, the study does not work, or the disk is full.
    """
    folder = Path(study.output)
    chosen = executor(study.executor)
    with alone(folder, "runs the study in", "`--status` shows how far it is."):
        planner = planner_of(study, watcher.update)
        current = planned(planner)
        write_whole(folder / STUDY_FILE, yaml.safe_dump(asdict(study), sort_keys=False))
        tried: set[str] = set()
        while waiting := _waiting(current, tried, most_cells):
            watcher.begin(current)
            _run(chosen, waiting, folder, watcher)
            tried |= {cell.identity for cell in waiting}
            current = planned(planner)
        return current


def _waiting(current: Plan, tried: set[str], most_cells: int | None) -> list[Cell]:
    """What is to run next: no cell twice in one go."""
    cells = [cell for cell in current.status.to_go if cell.identity not in tried]
    return cells if most_cells is None else cells[: most_cells - len(tried)]


def executor(recipe: ExecutorRecipe) -> Executor:
    """What runs the cells; raises HycamError where it needs a package that is not installed."""
    if recipe.name == "ray":
        from hycam.study.executors.ray import RayExecutor  # an extra: the others work without it

        return RayExecutor(recipe)
    return LocalExecutor(recipe)


def _run(chosen: Executor, cells: list[Cell], folder: Path, watcher: Watcher) -> None:
    board = Board(folder)
    try:
        with closing(chosen.run(cells)) as events:
            for event in events:
                if isinstance(event, Finished):
                    write(cells_folder(folder), event.cell, event.state, event.content)
                board.tell(event)
                watcher.tell(event)
    finally:
        board.clear()
