"""Files written whole or not at all: a reader never sees half of one, and a full disk costs nothing that was there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hycam.errors import HycamError


def write_whole(path: Path, text: str) -> None:
    """Writes a text file: to a temporary name, synced to the disk, then renamed over ``path``.

    Raises:
        HycamError: the folder cannot be written or the disk is full; what was at ``path`` is still there.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise HycamError(
            f"Could not write {path} ({error.strerror or error}). Make room, or name another folder."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place, files and all, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp makes it private
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
        if path.exists():
            path.replace(old / path.name)
        unfinished.replace(path)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
