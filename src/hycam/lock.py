"""One process at a time in a folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hycam.errors import HycamError
from hycam.files import write_whole

LOCK_FILE = ".lock"
_HOLDER_FILE = ".holder.json"
OWN_FILES = frozenset((LOCK_FILE, _HOLDER_FILE))
"""What is left in a folder that was held; the system, and not a file, says whether it is held now."""

_PATIENCE_SECONDS = 1.0  # somebody who only looks whether it is held holds it for a moment


@contextmanager
def alone(folder: Path, work: str, hint: str = "Name another folder with --output.") -> Iterator[None]:
    """Holds a folder, which is made; the system lets go of it when the process ends, however it ends.

    Args:
        folder: where nobody else may work.
        work: what is done there, as a verb: ``"trains in"``.
        hint: what else can be done than to wait for it or to stop it.

    Raises:
        HycamError: another process holds it (the message says which), or it cannot be held.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout as error:
        raise HycamError(
            f"Another process{_holder(folder)} {work} {folder}. Wait for it, or stop it. {hint}"
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        raise HycamError(f"{folder} cannot be used ({error}). Name another folder.") from error
    try:
        with suppress(HycamError):  # for show alone; where the disk is full, the work itself says so
            write_whole(folder / _HOLDER_FILE, json.dumps({"process": os.getpid(), "machine": platform.node()}))
        yield
    finally:
        with suppress(OSError):
            (folder / _HOLDER_FILE).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    """``" (process 12 on NAME)"``; nothing where that is not known."""
    try:
        holder = json.loads((folder / _HOLDER_FILE).read_text())
        return f" (process {int(holder['process'])} on {holder['machine']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
