"""Prepared data on disk: an entry is complete or absent, and never built twice at the same time.

Why not the cache of ``Dataset.map``: it has no lock, so each training process would build the whole; it takes a stream
cut off between two batches for a shorter dataset; and it cannot record what happened to rows that were skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from filelock import FileLock

from hycam.downloads import cache_folder
from hycam.errors import HycamError
from hycam.files import clear_unfinished, whole_folder

_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


def cached(name: str, key: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of an entry, which ``build`` fills if it does not exist yet.

    Processes that want the same entry wait for each other. ``build`` writes into a temporary folder, which is renamed
    at the end, so an interruption leaves nothing that a later run takes for the entry.

    Args:
        name: begins the name of the folder, for people who look into the cache.
        key: everything that the content depends on, except the code of this package, which is always part of it.
        build: fills an empty folder.

    Raises:
        HycamError: the cache cannot be written, or the disk is full.
    """
    words = json.dumps({**key, "code": _code()}, sort_keys=True)
    # The name of a task may be any text; that of a folder may not, and is short.
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:40].strip(".")
    entry = cache_folder() / "data" / f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:24]}"
    try:
        if not entry.exists():
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_name(f".{entry.name}.lock")):
                if not entry.exists():
                    clear_unfinished(entry)  # left by a process that was killed: we hold the lock
                    with whole_folder(entry) as folder:
                        build(folder)
    except (OSError, NotImplementedError) as error:  # the latter if the file system has no locks
        raise HycamError(
            f"The cache folder {entry.parent} cannot be used ({error}). Set HYCAM_CACHE to a folder that can."
        ) from error
    return entry


def read_arrow(path: Path) -> datasets.Dataset:
    """An Arrow stream (``pyarrow.ipc.new_stream``), memory-mapped.

    Raises:
        HycamError: it is incomplete, as after a power failure.
    """
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:  # Arrow takes a stream cut off between two batches for a shorter one
                raise OSError("its end is missing")
        return datasets.Dataset.from_file(str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise HycamError(f"{path} in the cache is damaged ({error}): delete {path.parent} and try again.") from error


def entry_of(dataset: datasets.Dataset) -> str:
    """The name of the entry that holds a dataset of ``read_arrow``, or a selection from it."""
    return Path(dataset.cache_files[0]["filename"]).parent.name


@cache
def _code() -> str:
    """A hash of the code that builds entries, so that no entry of another version is used."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
