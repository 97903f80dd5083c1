"""Files are written completely or not at all: no reader sees half a file, and a full disk destroys nothing."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from hycam.errors import HycamError

_UNFINISHED = ".unfinished"
_UNWRITABLE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)
# torch gives no error numbers: a full disk, and a folder that takes no new file
_TORCH_CANNOT_WRITE = re.compile(r"PytorchStreamWriter failed writing|File \S+ cannot be opened|unexpected pos \d+ vs")


def write_whole(path: Path, text: str) -> None:
    """:func:`replace_whole`, with a message for the user.

    Raises:
        HycamError: the folder cannot be written or the disk is full; what was at ``path`` is still there.
    """
    try:
        replace_whole(path, text)
    except OSError as error:
        raise HycamError(
            f"Could not write {path} ({error.strerror or error}). Make room, or name another folder."
        ) from error


def replace_whole(path: Path, text: str) -> None:
    """Writes a text file: to a temporary name, synced to the disk, then renamed over ``path``.

    Raises:
        OSError: it cannot be written; what was at ``path`` is still there.
    """
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.replace(path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def whole_folder(path: Path, hint: str = "or name another folder") -> Iterator[Path]:
    """A temporary folder beside ``path`` that replaces it when the block ends without an error.

    Everything in it is synced to the disk first. A killed process leaves the temporary folder behind, and no ``path``
    if it was killed between the two renames; :func:`clear_unfinished` removes what is left.
    ``hint`` is what else the user can do.

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
        sync_tree(made)
        if path.exists():
            path.replace(old)
        try:
            made.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise HycamError(f"Could not write {path}: {error}. Make room, {hint}.") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def is_unfinished(path: Path) -> bool:
    """Whether this is what a killed :func:`write_whole` left; the next write of the same file removes it."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


def clear_unfinished(path: Path) -> None:
    """Removes what a killed :func:`whole_folder` left; no other process may be writing ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*"):
        shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk, so that they survive a power failure."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # some systems cannot open folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """:func:`sync` for everything below a folder and the folder itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def unwritable(error: BaseException | None) -> str | None:
    """Why a file could not be written, from this error or its causes, however the library words it; else None."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number is None and (named := re.search(r"os error (\d+)", str(error))):  # as safetensors puts it
            number = int(named.group(1))
        if number in _UNWRITABLE:
            return os.strerror(number)
        if _TORCH_CANNOT_WRITE.search(str(error)):
            return "a file could not be written completely; most likely the disk is full"
        error = error.__cause__ or error.__context__
    return None


def needs_room(folder: Path, needed: int, what: str) -> None:
    """Refuses work whose result would not fit on the disk, before it begins.

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
