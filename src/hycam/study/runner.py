"""Runs what is left of a study, cell by cell, and keeps each result as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.study.cells import Cell
from hycam.study.executors.events import Event, Executor, Finished
from hycam.study.executors.local import LocalExecutor
from hycam.study.plan import STUDY_FILE, Plan, plan
from hycam.study.recipe import StudyRecipe
from hycam.study.results import cells_folder, write


def run_study(
    study: StudyRecipe,
    begin: Callable[[Plan], None],
    tell: Callable[[Event], None],
    most_cells: int | None = None,
) -> Plan:
    """Runs every cell without a result; a sweep goes on until no best learning rate is at an edge.

    A result is written whole when its cell ends, so an interruption costs at most what the running cells did since
    their last checkpoints. A cell that fails is kept as failed and the others go on; it is tried again next time.

    Args:
        study: what to run.
        begin: told the plan before its cells run, and once more each time a sweep was extended.
        tell: told what happens.
        most_cells: run at most so many cells.

    Returns:
        the plan with all results.

    Raises:
        HycamError: another process runs this study, the study does not work, or the disk is full.
    """
    with _alone(study):
        write_whole(Path(study.output) / STUDY_FILE, yaml.safe_dump(asdict(study), sort_keys=False))
        tried: set[str] = set()
        while True:
            current = plan(study)
            begin(current)
            waiting = [cell for cell in current.status.to_go if cell.identity not in tried]
            waiting = waiting[: None if most_cells is None else most_cells - len(tried)]
            if not waiting:
                return current
            _run(study, waiting, tell)
            tried |= {cell.identity for cell in waiting}


def _run(study: StudyRecipe, cells: list[Cell], tell: Callable[[Event], None]) -> None:
    folder = cells_folder(study.output)
    with closing(executor(study).run(cells)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Finished):
                write(folder, event.cell, event.state, event.content)
            tell(event)


def executor(study: StudyRecipe) -> Executor:
    """Where the study's cells run."""
    return LocalExecutor(study.executor)


@contextmanager
def _alone(study: StudyRecipe) -> Iterator[None]:
    """Holds the study's folder; the system lets go of it when the process ends, however it ends."""
    folder = Path(study.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HycamError(
            f"Another process runs the study in {folder}. Wait for it, or stop it; `--status` shows how far it is."
        ) from error
    try:
        yield
    finally:
        lock.release()
