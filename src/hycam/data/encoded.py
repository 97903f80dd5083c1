"""Tokenised rows, and what became of the rows that they were made of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import datasets
import numpy as np

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What became of the rows: ``rows`` = ``kept`` + ``dropped`` + ``bad``; ``shortened`` are among the kept.

    ``tokens`` is the length of all kept rows together, ``response_tokens`` those of them that carry the loss.
    """

    rows: int
    kept: int
    shortened: int
    dropped: int
    tokens: int
    response_tokens: int
    bad: int = 0


@dataclass(frozen=True)
class BadRows:
    """Rows that cannot be put into the form of the prompt, such as those that a chat template refuses.

    ``numbers`` are theirs among the rows that were given, ascending; ``first`` says what is wrong with the first.
    """

    numbers: list[int] = field(default_factory=list)
    first: str = ""

    def __add__(self, other: BadRows) -> BadRows:
        first = min((one for one in (self, other) if one.numbers), key=lambda one: one.numbers[0], default=self)
        return BadRows(sorted(self.numbers + other.numbers), first.first)

    def among(self, rows: np.ndarray) -> BadRows:
        here = np.intersect1d(self.numbers, rows).astype(int).tolist()
        return BadRows(here, self.first if here else "")

    def tell(self, name: str) -> None:
        """Warns of them, as ``load_task`` does of the rows of the task ``name`` that are malformed in their file."""
        if self.numbers:
            _log.warning("%s: %s malformed rows passed over; the first: %s", name, f"{len(self.numbers):,}", self.first)


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows: those at ``places`` (ascending, ``[kept]``) of ``whole``, out of ``rows`` that were asked for.

    ``bad`` are those of them that were passed over for being malformed. The columns are

    - ``index``: the number of the row among those that were given,
    - ``row``: where the row came from,
    - ``prompt``, ``response``: their whole texts, also where the tokens were shortened,
    - ``input_ids``: prompt, response, end token,
    - ``labels``: as long; -100 on what is not trained, the token itself elsewhere,
    - ``prompt_length``: ``input_ids[:prompt_length]`` is what generation of the last response starts from,
    - ``trained``: how many tokens carry the loss,
    - ``shortened``: whether tokens were taken out of the prompt,
    - ``thinks``: whether the last response of a chat begins with a thought.
    """

    whole: datasets.Dataset
    places: np.ndarray
    rows: int
    bad: BadRows = field(default_factory=BadRows)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        return self.whole.select(self.places)

    @cached_property
    def counts(self) -> Counts:
        tokens = int(lengths(self.whole)[self.places].sum())
        kept = len(self.places)
        return Counts(
            rows=self.rows,
            kept=kept,
            shortened=int(numbers(self.whole, "shortened")[self.places].sum()),
            dropped=self.rows - kept - len(self.bad.numbers),
            tokens=tokens,
            response_tokens=int(numbers(self.whole, "trained")[self.places].sum()),
            bad=len(self.bad.numbers),
        )

    def first(self, order: np.ndarray, limit: int) -> Encoded:
        """Of the rows with the numbers ``order``, the first ``limit`` that are here, so that fewer are among more.

        ``rows`` is then how many were tried in that order until there were enough.
        """
        here = numbers(self.whole, "index")[self.places]
        found = np.isin(order, here, assume_unique=True)
        tried = order if found.sum() <= limit else order[: np.flatnonzero(found)[limit - 1] + 1]
        places = self.places[np.isin(here, tried, assume_unique=True)]
        return Encoded(self.whole, places, len(tried), self.bad.among(tried))

    def token_ids(self) -> Iterator[np.ndarray]:
        """The ids of all rows, one behind the other, int32 ``[n]`` at a time: a batch of what is on the disk."""
        is_wanted = np.zeros(len(self.whole), dtype=bool)
        is_wanted[self.places] = True
        begin = 0
        for chunk in self.whole.data.column("input_ids").chunks:
            wanted = np.repeat(is_wanted[begin : begin + len(chunk)], chunk.value_lengths().to_numpy())
            yield chunk.flatten().to_numpy()[wanted]
            begin += len(chunk)


def lengths(whole: datasets.Dataset) -> np.ndarray:
    """Tokens of each row: int64 ``[rows]``. The token ids themselves are not read."""
    counted = [chunk.value_lengths().to_numpy() for chunk in whole.data.column("input_ids").chunks]
    return np.concatenate(counted).astype(np.int64) if counted else np.zeros(0, dtype=np.int64)


def numbers(whole: datasets.Dataset, column: str) -> np.ndarray:
    """A column of numbers or of true and false, ``[rows]``."""
    return whole.data.column(column).to_numpy()
