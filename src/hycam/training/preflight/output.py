"""The run folder and the room on the disks: may this run write where it is going to, and will all of it fit?"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hycam.errors import HycamError
from hycam.files import needs_room
from hycam.lock import LOCK_FILE, alone
from hycam.methods import method
from hycam.training.checkpoints import Checkpoints
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.run import Run


def check_output(recipe: Recipe) -> Findings:
    """Whether the run folder is free, or this very recipe's, and can be written. Leaves nothing behind."""
    found = Findings("output")
    run = Run(Path(recipe.output))
    for check in (lambda: run.check(recipe), lambda: _check_writable(run.folder), lambda: _check_free(run.folder)):
        found.attempt(check)
        if found:
            return found
    checkpoint = run.last_checkpoint()
    if run.summary() is not None:
        found.warn(f"{run.folder} is complete already; nothing would be trained again.")
    elif checkpoint is not None:
        found.ok(f"{run.folder} holds this run; it continues from {Path(checkpoint).name}.")
    else:
        found.ok(f"{run.folder} is free.")
    return found


def room_needed(recipe: Recipe, trained: int) -> int:
    """Bytes that the run folder takes at most.

    What is trained, in float32; a checkpoint has it too, with AdamW's two moments. While one is written, there is one
    more than are kept.

    Args:
        recipe: says whether there are checkpoints.
        trained: how many parameters are trained.
    """
    settings = recipe.training
    goes_back = settings.early_stopping_patience is not None
    keeps = settings.save_every is not None or goes_back
    most = Checkpoints(Run(Path(recipe.output)).checkpoints, goes_back=goes_back).most + 1 if keeps else 0
    moments = 8 if settings.optimizer_states == "32bit" else 3  # of 8 bits each, and what is kept beside them
    return trained * (4 + (4 + moments) * most)


def check_room(folder: Path, size: int, what: str) -> Findings:
    """Whether so many bytes of ``what`` can be written into a folder."""
    found = Findings("disk")
    found.attempt(needs_room, folder, size, what)
    if not found:
        found.ok(f"There is room in {folder} for {what}, at most {size / 1e6:,.0f} MB.")
    return found


def trained_kind(recipe: Recipe) -> str:
    """What a run saves, in words."""
    return "the model" if method(recipe.method.name).trains_backbone else "the adapter"


def _check_free(folder: Path) -> None:
    if (folder / LOCK_FILE).exists():
        with alone(folder, "trains in"):
            pass


def _check_writable(folder: Path) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise HycamError(
            f"The run folder {folder} cannot be written: {there} refuses it ({error.strerror or error}). Name another "
            "folder with --output, or change its rights."
        ) from error
