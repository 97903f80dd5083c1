"""Which rows of a task are trained, validated and tested on, the same on every machine.

The five folds: groups of rows that belong together are ordered by the SHA-256 of seed and group key and cut into ten
blocks of nearly equal rows. Fold f of 5 tests on block 2f and validates on blocks 2f + 1 and 2f + 3 (mod 10). Test
blocks are even and validation blocks odd, so nothing tuned on any fold's validation rows has seen any fold's test rows.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np

from hycam.data.cache import entry_of, read_arrow
from hycam.data.chosen import Chosen
from hycam.data.load import load_task
from hycam.data.recipe import PARTS, DataRecipe
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000
FOLDS = 5
_BLOCKS = 10
_PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each ascending. A row in none of them belongs to another replicate."""

    train: list[int]
    validation: list[int]
    test: list[int]


@dataclass(frozen=True)
class Rows:
    """The rows of a task, as ``load_task`` gives them.

    Attributes:
        dataset: all of them.
        source: identifies them: changes whenever they do.
        empty: how many more were skipped because they have no response or no question.
        sizes: how many rows each task of ``Chosen.tasks`` has.
    """

    dataset: datasets.Dataset
    source: list[str]
    empty: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """The rows of a task and the numbers of those in each part, ascending."""

    rows: Rows
    split: Split

    def part(self, name: str) -> datasets.Dataset:
        # Given a list, datasets would hash each number separately.
        return self.rows.dataset.select(np.array(getattr(self.split, name)))

    def identities(self, name: str) -> list[str]:
        """Where the rows of a part came from (``file.jsonl:17``), in the order of the source."""
        return list(column(self.part(name), "row"))


def digest(identities: list[str]) -> str:
    """SHA-256 (hexadecimal) of row identities, each followed by a line end, in UTF-8."""
    return hashlib.sha256("".join(f"{row}\n" for row in identities).encode()).hexdigest()


def column(rows: datasets.Dataset, name: str) -> Iterator[str]:
    """The texts of one column, with one batch in memory at a time."""
    for batch in rows.select_columns([name]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from batch[name].to_pylist()


def rows_of(chosen: Chosen, recipe: DataRecipe, keep_empty: bool = False) -> Rows:
    """Loads a task; ``keep_empty`` and errors as for ``load_task``."""
    loaded = [load_task(task, recipe.skip_bad_rows, keep_empty) for task in chosen.tasks]
    source = [entry_of(rows) for rows in loaded]
    empty = sum(len(read_arrow(Path(rows.cache_files[0]["filename"]))) - len(rows) for rows in loaded)
    limit = chosen.entry.rows
    if limit is not None:
        firsts = (in_order(column(rows, "row"), recipe.seed)[:limit] for rows in loaded)
        loaded = [rows.select(np.sort(first)) for rows, first in zip(loaded, firsts, strict=True)]
        source.append(f"{limit} rows of seed {recipe.seed}")
    whole = loaded[0] if len(loaded) == 1 else datasets.concatenate_datasets(loaded)
    return Rows(whole, source, empty, tuple(map(len, loaded)))


def partition(chosen: Chosen, recipe: DataRecipe) -> Partition:
    """Loads a task and splits it as its own entry, or else the recipe, says.

    Raises:
        HycamError: as for ``load_task``; the rows cannot be split that way; a fold other than 0 of a split without
            folds.
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
        by_files = how.by == "files"
        parts = np.repeat(PARTS, rows.sizes).tolist() if by_files else list(column(rows.dataset, "part"))
        split = split_column(parts, str(how.column))
    except HycamError as error:
        raise HycamError(f"{chosen.name}: {error}") from error
    # The parts were given, so nothing kept groups together, as the other ways of splitting do.
    count = straddling(groups, split)
    if count:
        _log.warning(
            "%s: %s inputs (or questions) have rows in more than one part, so training has seen part of the test",
            chosen.name,
            f"{count:,}",
        )
    return Partition(rows, split)


def order_key(seed: int, text: str) -> bytes:
    """SHA-256 of ``seed`` (decimal), a zero byte and ``text`` (UTF-8): a fixed pseudo-random order to sort by."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


def in_order(texts: Iterable[str], seed: int) -> np.ndarray:
    """The numbers of the texts in the order of :func:`order_key`: int64 ``[texts]``."""
    return np.lexsort(_keys(texts, seed).T[::-1])


def split_fold(groups: Iterable[str], fold: int, seed: int) -> Split:
    """Splits rows about 7 : 2 : 1 into training, validation and test, never through a group.

    The cut after block b is the group boundary nearest to (b + 1) / 10 of the rows (the earlier of two equally near
    ones), moved if necessary so that each block has at least one group.

    Args:
        groups: the group key of each row; not kept in memory.
        fold: 0 to 4.
        seed: changes the order of the groups.

    Raises:
        HycamError: there is no such fold, or there are fewer than ten groups.
    """
    if not 0 <= fold < FOLDS:
        raise HycamError(f"There is no fold {fold}: the folds are 0 to {FOLDS - 1}.")
    group, sizes = _ordered(groups, seed)
    if len(sizes) < _BLOCKS:
        raise HycamError(
            f"{len(group)} rows in {len(sizes)} groups cannot be split: ten blocks need at least {_BLOCKS} groups. "
            "Rows with the same input (or without one, the same instruction) are one group and are never separated. "
            "Add rows that differ, split by count, or name a column that tells the rows apart (columns: {group: ...})."
        )
    block = _cut(sizes, _equal_parts(len(group), _BLOCKS))[group]
    test = block == 2 * fold
    validation = (block == 2 * fold + 1) | (block == (2 * fold + 3) % _BLOCKS)
    return _split(~(test | validation), validation, test)


def split_count(
    groups: Iterable[str], validation_rows: int, test_rows: int, seed: int, replicates: int = 1, replicate: int = 0
) -> Split:
    """About ``test_rows`` rows for testing, ``validation_rows`` for validation and the rest for training.

    Groups are in the order of seed and key. The test part comes first and the validation part next, each cut at the
    group boundary nearest to its number of rows (the earlier of two equally near ones), moved if necessary so that each
    part has at least one group. So rows without groups are split exactly; with groups of at most g rows, test and
    training are within g / 2 of their number and validation within g, or all within 2 g if a cut was moved.

    Each of several disjoint replicates is a block of that order, of nearly equal rows, and is divided in the same way.
    So no replicate sees what another trains, tunes or tests on.

    Raises:
        HycamError: that leaves nothing for training, there are fewer than three groups, or there is no such replicate.
    """
    if not 0 <= replicate < replicates:
        raise HycamError(f"There is no replicate {replicate}: they are 0 to {replicates - 1} (data.fold names one).")
    group, sizes = _ordered(groups, seed)
    if 1 < replicates > len(sizes):
        raise HycamError(f"{len(group)} rows in {len(sizes)} groups cannot give {replicates} disjoint replicates.")
    mine = _cut(sizes, _equal_parts(len(group), replicates)) == replicate
    rows = int(sizes[mine].sum())
    if validation_rows + test_rows >= rows or mine.sum() < len(PARTS):
        raise HycamError(
            f"{rows} rows in {mine.sum()} groups cannot give {validation_rows} for validation, {test_rows} for "
            "the test and at least one group for training. Ask for fewer, or name a column that tells the rows apart "
            "(columns: {group: ...})."
        )
    part = np.full(len(sizes), -1)
    part[mine] = _cut(sizes[mine], [Fraction(test_rows), Fraction(test_rows + validation_rows)])
    return _split(part[group] == 2, part[group] == 1, part[group] == 0)


def split_column(parts: Sequence[str], column: str) -> Split:
    """The parts that the rows name: ``train``, ``validation`` (or valid, val, dev) and ``test``.

    Raises:
        HycamError: a row names something else, or a part has no row.
    """
    found = Counter(parts)
    meant = {name: _PART_NAMES.get(name.strip().lower()) for name in found}
    for name, part in meant.items():
        if part is None:
            raise HycamError(
                f'the column "{column}" says "{name[:40]}" in {found[name]:,} rows, where one of '
                f"{', '.join(_PART_NAMES)} was expected."
            )
    missing = [part for part in PARTS if part not in meant.values()]
    if missing:
        counts = ", ".join(f"{name} {count:,}" for name, count in found.items())
        raise HycamError(f'the column "{column}" gives no row to {" and ".join(missing)} (it has: {counts}).')
    rows = np.array([PARTS.index(str(meant[name])) for name in parts])
    return _split(rows == 0, rows == 1, rows == 2)


def straddling(groups: Iterable[str], split: Split) -> int:
    """How many groups have rows in more than one part, so that training has seen part of the test."""
    group, sizes = _ordered(groups, seed=0)
    parts = np.zeros_like(sizes)
    for rows in (split.train, split.validation, split.test):
        parts[np.unique(group[rows])] += 1
    return int((parts > 1).sum())


def _split(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Split:
    return Split(*(np.flatnonzero(part).tolist() for part in (train, validation, test)))


def _keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """The order key of each text as four numbers: ``[texts, 4]``."""
    return np.frombuffer(b"".join(order_key(seed, text) for text in texts), dtype=">u8").reshape(-1, 4)


def _ordered(groups: Iterable[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The place of each row's group in the order of seed and key, and the number of rows of each group in it.

    A group's key may be a whole passage, so only the 32 bytes of its order key are kept for each row.
    """
    keys = _keys(groups, seed)
    order = np.lexsort(keys.T[::-1])
    begins = np.ones(len(keys), dtype=bool)  # whether a row is the first of its group in this order
    begins[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.cumsum(begins) - 1
    return place, np.bincount(place)


def _equal_parts(rows: int, number: int) -> list[Fraction]:
    """After how many rows each of so many equal parts ends, except the last."""
    return [Fraction(part * rows, number) for part in range(1, number)]


def _cut(sizes: np.ndarray, targets: Sequence[Fraction]) -> np.ndarray:
    """The block of each group, ``[groups]``, with the cut after each block nearest to its target number of rows."""
    ends = np.concatenate([[0], np.cumsum(sizes)])  # ends[g]: rows in the first g groups
    count, blocks = len(sizes), len(targets) + 1
    cuts = [0]
    for block, target in enumerate(targets, 1):
        nearest = int(np.argmin(np.abs(target.denominator * ends - target.numerator)))
        cuts.append(min(max(nearest, cuts[-1] + 1), count - (blocks - block)))
    return np.repeat(np.arange(blocks), np.diff([*cuts, count]))
