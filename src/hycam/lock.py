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
"""What remains in a folder after it was locked. Only the operating system knows whether it is locked now."""

_PATIENCE_SECONDS = 1.0  # a process that only checks the lock holds it for a moment


@contextmanager
def alone(folder: Path, work: str, hint: str = "Name another folder with --output.") -> Iterator[None]:
    """Locks a folder, which is created if need be; the system releases it when the process ends, however it ends.

    ``work`` says what is done there (``"trains in"``), and ``hint`` what else the user can do.

    Raises:
        HycamError: another process has locked it (the message says which), or it cannot be locked.
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
        with suppress(HycamError):  # only informative; if the disk is full, the work itself reports it
            write_whole(folder / _HOLDER_FILE, json.dumps({"process": os.getpid(), "machine": platform.node()}))
        yield
    finally:
        with suppress(OSError):
            (folder / _HOLDER_FILE).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    """``" (process 12 on NAME)"``, or an empty string where that is unknown."""
    try:
        holder = json.loads((folder / _HOLDER_FILE).read_text())
        return f" (process {int(holder['process'])} on {holder['machine']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
