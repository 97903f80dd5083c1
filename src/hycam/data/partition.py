"""One task's rows and which of them are trained, validated and tested on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from hycam.data.cache import entry_of, read_arrow
from hycam.data.chosen import Chosen
from hycam.data.load import load_task
from hycam.data.recipe import PARTS, DataRecipe
from hycam.data.splits import Split, in_order, split_column, split_count, split_fold, straddling
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Rows:
    """The rows of a task, as ``load_task`` gives them.

    ``source`` is what they are, in words that change when they do; ``empty`` how many rows were left out for having no
    response or no question; ``of_parts`` how many rows are of each part, where each has its own files.
    """

    dataset: datasets.Dataset
    source: list[str]
    empty: int
    of_parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Partition:
    """The rows of a task and the numbers of those in each part, ascending."""

    rows: Rows
    split: Split

    def part(self, name: str) -> datasets.Dataset:
        # Of a list, datasets would hash every number by itself.
        return self.rows.dataset.select(np.array(getattr(self.split, name)))

    def identities(self, name: str) -> list[str]:
        """Where the rows of a part came from (``file.jsonl:17``), in the order of the source."""
        return list(column(self.part(name), "row"))


def digest(identities: list[str]) -> str:
    """SHA-256 (hexadecimal) of row identities, each with a line end behind it, in UTF-8."""
    return hashlib.sha256("".join(f"{row}\n" for row in identities).encode()).hexdigest()


def column(rows: datasets.Dataset, name: str) -> Iterator[str]:
    """The texts of one column, of which some are held at a time."""
    for batch in rows.select_columns([name]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from batch[name].to_pylist()


def rows_of(chosen: Chosen, recipe: DataRecipe, keep_empty: bool = False) -> Rows:
    """Loads a task; ``keep_empty`` and errors as of ``load_task``."""
    tasks = [chosen.parts[part] for part in PARTS] if chosen.task is None else [chosen.task]
    loaded = [load_task(task, recipe.skip_bad_rows, keep_empty) for task in tasks]
    source = [entry_of(rows) for rows in loaded]
    empty = sum(len(read_arrow(Path(rows.cache_files[0]["filename"]))) - len(rows) for rows in loaded)
    limit = chosen.entry.rows
    if limit is not None:
        loaded = [_first(rows, limit, recipe.seed) for rows in loaded]
        source.append(f"{limit} rows of seed {recipe.seed}")
    if chosen.task is not None:
        return Rows(loaded[0], source, empty)
    return Rows(datasets.concatenate_datasets(loaded), source, empty, tuple(map(len, loaded)))


def partition(chosen: Chosen, recipe: DataRecipe) -> Partition:
    """Loads a task and splits it as its own entry says, or the recipe.

    Raises:
        HycamError: as ``load_task`` does; the rows cannot be split in that way; a fold other than 0 of a split that has
            no folds.
    """
    how = chosen.split
    if how.by not in ("folds", "disjoint") and recipe.fold != 0:
        raise HycamError(f"{chosen.name} is split by {how.by}, which has no fold {recipe.fold}: leave fold at 0.")
    rows = rows_of(chosen, recipe)
    groups = column(rows.dataset, "group")
    try:
        if how.by == "folds":
            return Partition(rows, split_fold(groups, recipe.fold, recipe.seed))
        if how.by in ("count", "disjoint"):
            validation, test = how.validation_rows or 0, how.test_rows or 0
            return Partition(rows, split_count(groups, validation, test, recipe.seed, how.replicates or 1, recipe.fold))
        parts = np.repeat(PARTS, rows.of_parts).tolist() if rows.of_parts else list(column(rows.dataset, "part"))
        split = split_column(parts, str(how.column))
    except HycamError as error:
        raise HycamError(f"{chosen.name}: {error}") from error
    # The parts were given, so nothing kept together what the other ways of splitting do not separate.
    count = straddling(groups, split)
    if count:
        _log.warning(
            "%s: %s inputs (or questions) have rows in more than one part: what is tested is not all new to training",
            chosen.name,
            f"{count:,}",
        )
    return Partition(rows, split)


def _first(rows: datasets.Dataset, limit: int, seed: int) -> datasets.Dataset:
    """So many rows, those that come first in the order of seed and identity."""
    return rows.select(np.sort(in_order(column(rows, "row"), seed)[:limit]))
