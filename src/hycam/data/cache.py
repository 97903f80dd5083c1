"""What was made of data, kept on the disk: an entry is there whole or not at all, and never made twice at a time.

Why not the cache of ``Dataset.map``: it has no lock, so processes that train together would each make the whole; it
takes a stream that was cut between two batches for a shorter data set; and it has no place for what became of the rows
that are not in the result.
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
    """The folder of an entry, which ``build`` fills where it is not there yet.

    Two processes that want the same entry wait for each other. ``build`` writes into another folder, which is renamed
    when it is done, so an interruption leaves nothing that a later run takes for the entry.

    Args:
        name: begins the folder's name, for people who look into the cache.
        key: everything that the content depends on, but for this package's own code, which is always part of it.
        build: is given an empty folder.

    Raises:
        HycamError: the cache cannot be written, or the disk is full; and what ``build`` raises.
    """
    words = json.dumps({**key, "code": _code()}, sort_keys=True)
    # A name may hold anything; a folder's may not, and is short.
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:40].strip(".")
    entry = cache_folder() / "data" / f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:24]}"
    try:
        if not entry.exists():
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_name(f".{entry.name}.lock")):
                if not entry.exists():
                    clear_unfinished(entry)  # of a process that was killed: the lock is ours
                    with whole_folder(entry) as folder:
                        build(folder)
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        raise HycamError(
            f"The cache folder {entry.parent} cannot be used ({error}). Set HYCAM_CACHE to a folder that can."
        ) from error
    return entry


def read_arrow(path: Path) -> datasets.Dataset:
    """A stream of Arrow (``pyarrow.ipc.new_stream``), mapped into memory and not read.

    Raises:
        HycamError: it is not whole, as after a power failure.
    """
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:  # Arrow takes a stream that was cut between two batches for a shorter one
                raise OSError("its end is missing")
        return datasets.Dataset.from_file(str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise HycamError(f"{path} in the cache is damaged ({error}): delete {path.parent} and try again.") from error


def entry_of(dataset: datasets.Dataset) -> str:
    """The name of the entry that a dataset of ``read_arrow``, or rows of it, are out of."""
    return Path(dataset.cache_files[0]["filename"]).parent.name


@cache
def _code() -> str:
    """A hash of the code that makes entries, so that an entry of another version is not taken for this one's."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
