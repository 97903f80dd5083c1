"""The data files of a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from hycam.data.source_row import label_of
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""What a data file's name ends with, before ``.gz``. A file that is named alone may have any name."""


def is_data_file(name: str) -> bool:
    """Whether a file is one of data by its name."""
    return label_of(name).lower().endswith(ENDINGS)


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder and its subfolders, in the order of their names.

    Hidden ones are none; files that are passed over for their names are logged.

    Raises:
        HycamError: there is no data file in the folder, part of it cannot be read, or it contains itself by a link;
            the path is a pipe or a device, which could not be read twice.
    """
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise HycamError(f"{path} is neither a file nor a folder: write its rows into a file.")
            return [path]
        files = list(_below(path, ()))
    except OSError as error:
        raise unreadable(path, error) from error
    found = [file for file in files if is_data_file(file.name)]
    if not found:
        raise HycamError(f"{path} has no data file: {', '.join(ENDINGS)} (each also .gz) were looked for.")
    others = [file.relative_to(path).as_posix() for file in files if not is_data_file(file.name)]
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        _log.warning("%s: files that are none of data by their names are passed over: %s", path, named)
    return found


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise HycamError(f"{folder} is a link to a folder that it is in: remove it.")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, (*above, here))
        else:
            yield entry


def unreadable(path: Path, error: OSError) -> HycamError:
    """The error that names what could not be read, and why."""
    return HycamError(f"{error.filename or path} cannot be read: {error.strerror or error}.")
