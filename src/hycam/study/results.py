"""What a cell gives, one JSON file each, written whole; and all of a study's, as tables and tests read them.

::

    OUTPUT/cells/METHOD-foldN-IDENTITY.json

The file of a finished cell holds no row of the data, only their identities and figures, so it can be kept with a
project and carried to another machine. :mod:`hycam.study.cell_file` describes its fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.study.cell_file import FORMAT, check
from hycam.study.cells import Cell, difference


@dataclass(frozen=True)
class Rows:
    """Scored rows: identities, NLL (summed over a row's tokens) and tokens, all ``[rows]``."""

    identities: list[str]
    nll: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Result:
    """One cell's result; ``content`` is what the file holds."""

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
        """The only task that was trained, or None for all."""
        return self.content["cell"]["task"]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The varied fields."""
        return self.content["cell"]["settings"]

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """The scores by task."""
        return self.content["evaluation"]["tasks"]

    @property
    def macro(self) -> Mapping[str, float | None]:
        return self.content["evaluation"]["macro"]

    @property
    def training(self) -> Mapping[str, Any] | None:
        return self.content["training"]

    def rows(self, task: str) -> Rows:
        """The scored rows of a task, in the order of their identities."""
        found = self.content["evaluation"]["rows"][task]
        order = np.argsort(found["row"], kind="stable")
        return Rows(
            [found["row"][index] for index in order],
            np.asarray(found["nll"], dtype=np.float64)[order],
            np.asarray(found["tokens"], dtype=np.int64)[order],
        )


@dataclass(frozen=True)
class Results:
    """The results of a study: those that are done, those that are not, and what could not be read.

    Attributes:
        done: in the order of the grid.
        failed: cells that failed or diverged.
        unusable: why a file was left aside, by its path.
    """

    done: list[Result]
    failed: list[Result] = field(default_factory=list)
    unusable: Mapping[Path, str] = field(default_factory=dict)

    @property
    def settled(self) -> list[Result]:
        """The finished cells, and those that diverged, as they would again."""
        return [*self.done, *(one for one in self.failed if one.state == "diverged")]

    def select(self, **wanted: Any) -> list[Result]:
        """The finished cells with these attributes, such as ``method="LoRA", backbone="SmolLM2 135M", task=None``."""
        return [one for one in self.done if all(getattr(one, name) == value for name, value in wanted.items())]

    @cached_property
    def task_names(self) -> list[str]:
        return list(dict.fromkeys(name for one in self.done for name in one.tasks))


def cells_folder(output: str | Path) -> Path:
    return Path(output) / "cells"


def write(folder: Path, cell: Cell, state: str, content: Mapping[str, Any]) -> Result:
    """Writes the file of a cell; a full disk is an error and leaves what was there."""
    whole = {"format": FORMAT, "identity": cell.identity, "state": state, "cell": cell.labels,
             "settings": cell.resolved, "data": cell.data.fingerprint, **content}  # fmt: skip
    path = folder / cell.file_name
    write_whole(path, json.dumps(whole) + "\n")
    return Result(whole, path)


def read(path: Path) -> Result:
    """Reads the file of a cell.

    Raises:
        HycamError: it is no result, or of another layout.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # JSON can spell half a character, and no report can write it
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of many digits
        raise HycamError(f"it cannot be read: {error}") from error
    check(content)
    return Result(content, path)


def load(output: str | Path, cells: Iterable[Cell]) -> Results:
    """The results of these cells that there are. A file that cannot be used is reported and left where it is."""
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
            unusable[path] = f"{error}. Delete it, and its cell runs again"
            continue
        # What a cell is called may change without its result: the labels are those of the study as it is now.
        named = Result({**result.content, "cell": cell.labels}, path)
        (done if named.state == "done" else failed).append(named)
    return Results(done, failed, unusable)


def _check_is_of(result: Result, cell: Cell) -> None:
    other = difference(result.content["settings"], cell.resolved)
    if other:
        raise HycamError(f"it is of other settings, where another version had other defaults: {other}")
    if result.identity != cell.identity:
        raise HycamError("it is the result of another cell, or of other data")
