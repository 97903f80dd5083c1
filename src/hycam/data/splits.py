"""Which rows are trained on, validated on and tested on, the same on every machine.

Groups of rows that belong together are ordered by the SHA-256 of seed and group key and cut into ten blocks of nearly
equal rows. Fold f of 5 tests on block 2f and validates on blocks 2f + 1 and 2f + 3 (mod 10). Test blocks are even and
validation blocks odd, so whatever is tuned on any fold's validation rows has seen no fold's test rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hycam.errors import HycamError

FOLDS = 5
_BLOCKS = 10


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each ascending. Every row is in exactly one of them."""

    train: list[int]
    validation: list[int]
    test: list[int]


def order_key(seed: int, text: str) -> bytes:
    """SHA-256 of ``seed`` (decimal), a zero byte and ``text`` (UTF-8): a fixed pseudo-random order to sort by."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


def split_fold(groups: Sequence[str], fold: int, seed: int) -> Split:
    """Splits rows about 7 : 2 : 1 into training, validation and test, never through a group.

    The cut after block b is the group boundary nearest to (b + 1) / 10 of the rows (the earlier of two equally near
    ones), moved where it must so that every block has at least one group.

    Args:
        groups: the group key of each row.
        fold: 0 to 4.
        seed: another seed orders the groups anew.

    Raises:
        HycamError: there is no such fold, or there are fewer than ten groups.
    """
    if not 0 <= fold < FOLDS:
        raise HycamError(f"There is no fold {fold}: the folds are 0 to {FOLDS - 1}.")
    sizes = Counter(groups)
    if len(sizes) < _BLOCKS:
        raise HycamError(
            f"{len(groups)} rows in {len(sizes)} groups cannot be split: ten blocks need at least {_BLOCKS} groups. "
            "Rows with the same input (or without one, the same instruction) are one group and are never separated: "
            "add rows that differ."
        )
    ordered = sorted(sizes, key=lambda group: order_key(seed, group))
    block_of_group = _blocks(np.array([sizes[group] for group in ordered]))
    lookup = dict(zip(ordered, block_of_group.tolist(), strict=True))
    block = np.array([lookup[group] for group in groups])
    test = block == 2 * fold
    validation = (block == 2 * fold + 1) | (block == (2 * fold + 3) % _BLOCKS)
    return Split(
        train=np.flatnonzero(~(test | validation)).tolist(),
        validation=np.flatnonzero(validation).tolist(),
        test=np.flatnonzero(test).tolist(),
    )


def _blocks(sizes: np.ndarray) -> np.ndarray:
    """The block of each group, ``[groups]``, from the number of rows of each, in order."""
    ends = np.concatenate([[0], np.cumsum(sizes)])  # ends[g]: rows in the first g groups
    count, rows = len(sizes), ends[-1]
    cuts = [0]
    for block in range(1, _BLOCKS):
        nearest = int(np.argmin(np.abs(_BLOCKS * ends - block * rows)))
        cuts.append(min(max(nearest, cuts[-1] + 1), count - (_BLOCKS - block)))
    return np.repeat(np.arange(_BLOCKS), np.diff([*cuts, count]))
