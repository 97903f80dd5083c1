"""The results of cells: a JSON file each, written whole, and those of a study as tables and tests read them.

::

    OUTPUT/cells/METHOD-foldN-IDENTITY.json

The file of a finished cell holds no text of the data, only the rows' identities and scores, so it can be kept with a
project and moved to another machine. :mod:`hycam.study.cell_file` describes its fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.study.cell_file import FORMAT, check
from hycam.study.cells import Cell, difference


class Rows(NamedTuple):
    """Scored rows: identities, NLL (summed over a row's tokens) and tokens, all ``[rows]``."""

    identities: list[str]
    nll: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Result:
    """One cell's result; ``content`` is that of its file."""

    content: Mapping[str, Any]
    path: Path | None = None

    @property
    def identity(self) -> str:
        return str(self.content["identity"])

    @property
    def state(self) -> str:
        return str(self.content["state"])

    @property
    def backbone(self) -> str:
        return str(self.content["cell"]["backbone"])

    @property
    def method(self) -> str:
        return str(self.content["cell"]["method"])

    @property
    def fold(self) -> int:
        return int(self.content["cell"]["fold"])

    @property
    def seed(self) -> int:
        return int(self.content["cell"]["seed"])

    @property
    def task(self) -> str | None:
        return self.content["cell"]["task"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.content["cell"]["settings"]

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        return self.content["evaluation"]["tasks"]

    @property
    def macro(self) -> Mapping[str, float | None]:
        return self.content["evaluation"]["macro"]

    @property
    def training(self) -> Mapping[str, Any] | None:
        return self.content["training"]

    def rows(self, task: str) -> Rows:
        """The scored rows of a task, sorted by identity."""
        found = self.content["evaluation"]["rows"][task]
        order = np.argsort(found["row"], kind="stable")
        return Rows(
            [found["row"][index] for index in order],
            np.asarray(found["nll"], dtype=np.float64)[order],
            np.asarray(found["tokens"], dtype=np.int64)[order],
        )


@dataclass(frozen=True)
class Results:
    """The results of a study: finished cells in grid order, failed or diverged ones, and why files are unusable."""

    done: list[Result]
    failed: list[Result] = field(default_factory=list)
    unusable: Mapping[Path, str] = field(default_factory=dict)

    @property
    def settled(self) -> list[Result]:
        """The finished and the diverged cells, which would diverge again."""
        return [*self.done, *(one for one in self.failed if one.state == "diverged")]

    def select(self, **wanted: Any) -> list[Result]:
        """The finished cells with these attributes, such as ``method="LoRA", task=None``."""
        return [one for one in self.done if all(getattr(one, name) == value for name, value in wanted.items())]

    @cached_property
    def task_names(self) -> list[str]:
        return list(dict.fromkeys(name for one in self.done for name in one.tasks))


def cells_folder(output: str | Path) -> Path:
    return Path(output) / "cells"


def write(folder: Path, cell: Cell, state: str, content: Mapping[str, Any]) -> Result:
    """Writes the file of a cell; a full disk is an error and leaves the old file in place."""
    whole = {"format": FORMAT, "identity": cell.identity, "state": state, "cell": cell.labels,
             "settings": cell.resolved, "data": cell.data.fingerprint, **content}  # fmt: skip
    path = folder / cell.file_name
    write_whole(path, json.dumps(whole) + "\n")
    return Result(whole, path)


def read(path: Path) -> Result:
    """Reads the file of a cell.

    Raises:
        HycamError: it is not a result, or has another layout.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(
            content, ensure_ascii=False
        ).encode()  # JSON can hold half a surrogate pair, which no report can write
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a huge number
        raise HycamError(f"it cannot be read: {error}") from error
    check(content)
    return Result(content, path)


def load(output: str | Path, cells: Iterable[Cell]) -> Results:
    """The results of these cells so far. An unusable file is reported and left in place."""
    folder = cells_folder(output)
    done: list[Result] = []
    failed: list[Result] = []
    unusable: dict[Path, str] = {}
    for cell in cells:
        path = folder / cell.file_name
        if not path.exists():
            continue
        try:
            result = read(path)
            _check_is_of(result, cell)
        except HycamError as error:
            unusable[path] = f"{error}. Delete it to run its cell again"
            continue
        # Labels may change without affecting the result, so the study's current ones are used.
        named = Result({**result.content, "cell": cell.labels}, path)
        (done if named.state == "done" else failed).append(named)
    return Results(done, failed, unusable)


def _check_is_of(result: Result, cell: Cell) -> None:
    other = difference(result.content["settings"], cell.resolved)
    if other:
        raise HycamError(f"it has other settings, probably from a version with other defaults: {other}")
    if result.identity != cell.identity:
        raise HycamError("it is the result of another cell or of other data")
