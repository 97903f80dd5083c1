"""Files written whole or not at all: a reader never sees half of one, and a full disk costs nothing that was there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

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
    """A temporary folder beside ``path`` that takes its place, files and all, when the block ends without an error.

    Raises:
        HycamError: the folder cannot be written or the disk is full; what was at ``path`` is still there.
    """
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        made, old = scratch / "made", scratch / "old"
        made.mkdir()
        yield made
        if path.exists():
            path.replace(old)
        try:
            made.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
    except (OSError, SafetensorError) as error:
        raise HycamError(f"Could not write {path}: {error}. Make room, or name another folder.") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came from, says that there is no room; each library says it in its own way."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "os error 28" in str(error) or "PytorchStreamWriter failed writing" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def needs_room(folder: Path, needed: int, what: str) -> None:
    """Says before the work begins that its result would not fit.

    Raises:
        HycamError: the disk of ``folder`` (or of its nearest parent that exists) has less than ``needed`` bytes free.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise HycamError(
            f"There is no room for {what}: {folder} has {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB are needed. "
            "Make room, or name a folder on another disk."
        )
