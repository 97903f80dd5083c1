"""From the order of the draws to micro-batches: as they come, of similar length, or packed.

For ``DataLoader(batch_sampler=...)``. Batches depend on the seed and the epoch only, so a run that resumes by skipping
batches continues with the same ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import TypeVar

import datasets
import numpy as np
import pyarrow as pa

from hycam.data.mixture import Mixture, Purpose, generator
from hycam.errors import HycamError

_GROUPED = 50  # batches that are sorted by length together
_PACKED = 1000  # draws that are packed together

Piece = TypeVar("Piece", int, list[int])


class Batches:
    """Micro-batches of global row indices, of the epoch given to :meth:`set_epoch`.

    Plain batches are ``batch_size`` consecutive draws; the last one of an epoch may be smaller. Grouping by length
    sorts the draws of 50 batches at a time and shuffles these batches; the first batch of an epoch has the longest
    row of the first 50, so that a machine with too little memory fails at once.

    With packing, a batch is the rows of ``batch_size`` packs. A pack is rows of at most ``max_length`` tokens together.
    Each 1,000 draws are packed separately and their packs shuffled. All passes over the draws form one stream of packs,
    and an epoch is as many batches of it as hold the first pass. So each draw is in exactly one pack, and an epoch may
    end a little before or after a pass.

    Each of P processes takes every P-th piece (row or pack) of a batch that is P times as large. So together they have
    the batches of one process with P times the ``batch_size``, and each has the same number of batches. If the last
    batch of an epoch has fewer rows than there are processes, some get an empty list.

    Args:
        mixture: gives the draws.
        lengths: tokens of each row, ``[rows]``, from 1 to ``max_length``.
        batch_size: rows, or packs, in a batch of one process.
        max_length: maximum number of tokens of a row or pack.
        packing: whether rows are packed.
        group_by_length: whether rows of similar length are batched together.
        processes: how many share the batches.
        process: the rank of this one, from 0.

    Attributes:
        packing: whether a batch is to be laid out as packed rows.
        batch_size: rows in a batch, or None with packing; accelerate reads it from a batch sampler.

    Raises:
        HycamError: from ``len`` and iteration, if packing needs TRL and it is not installed.
    """

    def __init__(
        self,
        mixture: Mixture,
        lengths: np.ndarray,
        batch_size: int,
        max_length: int,
        packing: bool = False,
        group_by_length: bool = False,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.packing = packing
        self.batch_size = None if packing else batch_size
        self._mixture, self._lengths, self._size = mixture, lengths, batch_size * processes
        self._processes, self._process = processes, process
        self._packs = _Packs(mixture, lengths, max_length) if packing else None
        self._grouping = group_by_length
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration yields the batches of this epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch, the same in each epoch and process."""
        pieces = len(self._mixture) if self._packs is None else self._packs.in_first_pass()
        return -(-pieces // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        if self._packs is not None:
            for packs in self._packed(self._packs, self._epoch):
                yield list(chain.from_iterable(self._own(packs)))
        else:
            for rows in self._grouped(self._epoch) if self._grouping else self._plain(self._epoch):
                yield self._own(rows)

    def _own(self, pieces: list[Piece]) -> list[Piece]:
        """The share of this process in a batch: interleaved, so that sorted rows are spread evenly."""
        return pieces[self._process :: self._processes]

    def _plain(self, epoch: int) -> Iterator[list[int]]:
        draws = self._mixture.epoch(epoch)
        for start in range(0, len(draws), self._size):
            yield draws[start : start + self._size].tolist()

    def _grouped(self, epoch: int) -> Iterator[list[int]]:
        draws, size = self._mixture.epoch(epoch), self._size
        for window, start in enumerate(range(0, len(draws), _GROUPED * size)):
            rows = draws[start : start + _GROUPED * size]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")[::-1]]
            full, rest = divmod(len(rows), size)
            order = generator(self._mixture.seed, Purpose.GROUPS, epoch, window).permutation(full).tolist()
            if window == 0:
                order.sort(key=bool)  # batch 0, which has the longest row, first; the others keep their order
            for batch in order:
                yield rows[batch * size : (batch + 1) * size].tolist()
            if rest:
                yield rows[full * size :].tolist()

    def _packed(self, packs: _Packs, epoch: int) -> Iterator[list[list[int]]]:
        stream = packs.stream(epoch * len(self) * self._size)
        for _ in range(len(self)):
            yield list(islice(stream, self._size))


class _Packs:
    """An endless stream of packs, window by window of the draws, in pass after pass."""

    def __init__(self, mixture: Mixture, lengths: np.ndarray, max_length: int) -> None:
        self._mixture, self._lengths, self._max_length = mixture, lengths, max_length
        self._windows_in_pass = -(-len(mixture) // _PACKED)
        self._ends: list[int] = []  # packs up to the end of each window packed so far

    def in_first_pass(self) -> int:
        """The number of packs in the first pass over the draws."""
        ahead = self._windows(len(self._ends))
        while len(self._ends) < self._windows_in_pass:
            next(ahead)
        return self._ends[self._windows_in_pass - 1]

    def stream(self, first: int) -> Iterator[list[int]]:
        """The rows of each pack from number ``first`` on. Earlier windows are packed once, to count their packs."""
        ahead = self._windows(len(self._ends))
        while not self._ends or self._ends[-1] <= first:
            next(ahead)
        window = bisect_right(self._ends, first)
        skipped = first - (self._ends[window - 1] if window else 0)
        return islice(chain.from_iterable(self._windows(window)), skipped, None)

    def _windows(self, first: int) -> Iterator[list[list[int]]]:
        """The packs of each window from number ``first`` on."""
        start_pass, start_window = divmod(first, self._windows_in_pass)
        for number in count(start_pass):
            draws = self._mixture.epoch(number)
            for window in range(start_window, self._windows_in_pass):
                rows = draws[window * _PACKED : (window + 1) * _PACKED]
                packs = _pack(self._lengths[rows], self._max_length)
                if number * self._windows_in_pass + window == len(self._ends):
                    self._ends.append((self._ends[-1] if self._ends else 0) + len(packs))
                order = generator(self._mixture.seed, Purpose.PACKS, number, window).permutation(len(packs))
                yield [rows[packs[pack]].tolist() for pack in order]
            start_window = 0


def _pack(lengths: np.ndarray, max_length: int) -> list[np.ndarray]:
    """Packs sequences of these lengths, ``[n]``, into at most ``max_length`` tokens; the sequence numbers of each pack.

    TRL packs tokens. Here each token is the number of its sequence, so the result shows what is in a pack.
    """
    try:
        from trl import pack_dataset
    except ImportError as error:
        raise HycamError('Packing needs TRL: pip install "hycam[trl]", or leave packing off.') from error
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    numbers = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    sequences = datasets.Dataset(pa.table({"number": pa.ListArray.from_arrays(offsets, numbers)}))
    with _without_progress():
        together = {"keep_in_memory": True, "batch_size": len(lengths)}
        packed = pack_dataset(sequences, max_length, strategy="bfd", map_kwargs=together)
    table = packed.with_format("arrow")[:]
    tokens = table["number"].combine_chunks().flatten().to_numpy()
    pieces = table["seq_lengths"].combine_chunks()
    ends = np.cumsum(pieces.flatten().to_numpy())
    return np.split(tokens[ends - 1], np.cumsum(pieces.value_lengths().to_numpy())[:-1])


@contextmanager
def _without_progress() -> Iterator[None]:
    """Without a progress bar for each window."""
    if not datasets.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
