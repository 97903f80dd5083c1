"""What the C library's allocator holds beyond the tensors that are alive, on a CPU.

Resident memory is more than the live tensors: a tensor below the mapping threshold lies in the heap, and when it is
freed its place stays with the process. PyTorch asks for aligned blocks. For each, glibc takes 96 bytes more than are
needed and frees the slivers on either side; small objects of the autograd graph settle in some of those, and then the
place, once it is free, is too narrow for the next block of that very size. So freed memory is not used again while the
graph is alive, by a hundred megabytes and more. The sequence of allocations is known (it is what
:class:`~hycam.training.preflight.live_bytes.LiveBytes` counts), so it is replayed here on a model of that heap: best
fit, neighbours merge, the top is given back past a threshold, large blocks are mapped.
"""

from __future__ import annotations

import os
import platform
import random
from bisect import bisect_left, insort
from collections.abc import Sequence

Events = Sequence[tuple[int, int, bool]]
"""Allocations ``(key, bytes, whether the graph grows by it)`` and frees ``(key, -1, False)``, in order."""

TAKEN = 0.22
"""The share of slivers in which something settles for the life of the graph: fitted on measured runs, one value for all
(docs/preflight.md has them)."""

_LEAST = 32  # bytes of a chunk
_ALIGNED = 64
_PAGE = 4096
_TOP_PAD = 128 << 10
_MOST_THRESHOLD = 32 << 20  # to which the mapping threshold grows by itself; by the time of training it has
_STEPS = 3  # after which the heap hardly grows


class Heap:
    """A model of glibc's main heap (2.36). Keys name blocks.

    Args:
        threshold: blocks of so many bytes and more are mapped by themselves, and given back when they are freed.
        taken: the share of slivers that are taken while :attr:`pinning` is on.
    """

    def __init__(self, threshold: int = _MOST_THRESHOLD, taken: float = TAKEN) -> None:
        self.threshold, self.taken = threshold, taken
        self.pinning = False
        self.peak = 0
        self._sizes: list[tuple[int, int]] = []  # of free chunks with where they start, ascending
        self._free: dict[int, int] = {}  # start -> size
        self._free_ends: dict[int, int] = {}  # end -> start
        self._top = self._end = self._mapped = 0
        self._used: dict[object, tuple[int, int]] = {}
        self._mappings: dict[object, int] = {}
        self._pins: list[tuple[int, int]] = []
        self._random = random.Random(0)

    @property
    def held(self) -> int:
        """Bytes that the process holds."""
        return self._end + self._mapped

    def allocate(self, key: object, size: int) -> None:
        wanted = max(_LEAST, (size + 8 + 15) & ~15)
        if wanted + _ALIGNED + _LEAST >= self.threshold:
            self._mappings[key] = -(-(size + _PAGE) // _PAGE) * _PAGE
            self._mapped += self._mappings[key]
        else:
            start, got = self._take(wanted + _ALIGNED + _LEAST)
            lead = -(start + 16) % _ALIGNED
            if 0 < lead < _LEAST:
                lead += _ALIGNED
            if lead:
                self._sliver(start, lead)
            start, got = start + lead, got - lead
            if got - wanted >= _LEAST:
                self._sliver(start + wanted, got - wanted)
                got = wanted
            self._used[key] = (start, got)
        self.peak = max(self.peak, self.held)

    def free(self, key: object) -> None:
        if key in self._mappings:
            self._mapped -= self._mappings.pop(key)
        else:
            self._release(*self._used.pop(key))

    def unpin(self, share: float = 1.0) -> None:
        """The objects in the slivers go, the latest first: so large a share of them."""
        for _ in range(round(len(self._pins) * share)):
            self._release(*self._pins.pop())

    def _sliver(self, start: int, size: int) -> None:
        if self.pinning and size <= 128 and self._random.random() < self.taken:
            self._pins.append((start, size))
        else:
            self._release(start, size)

    def _take(self, wanted: int) -> tuple[int, int]:
        at = bisect_left(self._sizes, (wanted, -1))
        if at < len(self._sizes):
            size, start = self._sizes[at]
            self._remove(start)
            if size - wanted >= _LEAST:
                self._add(start + wanted, size - wanted)
                size = wanted
            return start, size
        lacking = wanted + _LEAST - (self._end - self._top)
        if lacking > 0:
            self._end += -(-(lacking + _TOP_PAD) // _PAGE) * _PAGE
        self._top += wanted
        return self._top - wanted, wanted

    def _release(self, start: int, size: int) -> None:
        if start in self._free_ends:
            before = self._free_ends[start]
            size += self._remove(before)
            start = before
        if start + size == self._top:
            self._top = start
            if self._end - self._top >= 2 * self.threshold:
                self._end = -(-(self._top + _TOP_PAD) // _PAGE) * _PAGE
            return
        if start + size in self._free:
            size += self._remove(start + size)
        self._add(start, size)

    def _add(self, start: int, size: int) -> None:
        insort(self._sizes, (size, start))
        self._free[start] = size
        self._free_ends[start + size] = start

    def _remove(self, start: int) -> int:
        size = self._free.pop(start)
        del self._free_ends[start + size]
        del self._sizes[bisect_left(self._sizes, (size, start))]
        return size


def held_at_most(
    micro_batch: Events, forward_ends: int, states: Sequence[int], validation: Events, heap: Heap | None = None
) -> tuple[int, int]:
    """The most bytes that the allocator holds in training and in validation, the weights left out.

    Some steps are replayed one after the other, and then a validation. What a micro-batch leaves behind are the
    gradients, which are freed after a step.

    Args:
        micro_batch: a forward and a backward pass.
        forward_ends: how many of its events are those of the forward pass.
        states: bytes of each of the optimizer's tensors, which come with the first step.
        validation: a batch of it.
        heap: where; by default a new one, as this machine's.
    """
    heap = heap or machines_heap()
    allocated = {key for key, size, _ in micro_batch if size >= 0}
    gradients = allocated - {key for key, size, _ in micro_batch if size < 0}
    backward = max(1, len(micro_batch) - forward_ends)
    training = 0
    for step in range(_STEPS):
        heap.peak = 0
        for number, (key, size, grows) in enumerate(micro_batch):
            heap.pinning = grows
            if size >= 0:
                heap.allocate((step, key), size)
            elif key in allocated:
                heap.free((step, key))
            if number > forward_ends and (number - forward_ends) % 64 == 0:
                heap.unpin(min(1.0, 64 / max(1, backward - (number - forward_ends) + 64)))
        heap.unpin()
        training = max(training, heap.peak)
        heap.pinning = False
        if step == 0:
            for number, size in enumerate(states):
                heap.allocate(("state", number), size)
        for key in gradients:
            heap.free((step, key))
    heap.peak = heap.held
    there = {key for key, size, _ in validation if size >= 0}
    for key, size, _ in validation:
        if size >= 0:
            heap.allocate(("validation", key), size)
        elif key in there:
            heap.free(("validation", key))
    return training, heap.peak


def machines_heap() -> Heap:
    """The heap as this process's environment sets it."""
    fixed = os.environ.get("MALLOC_MMAP_THRESHOLD_", "")
    return Heap(int(fixed)) if fixed.isdigit() else Heap()


def is_glibc() -> bool:
    """Whether the allocator is the one that is modelled here."""
    return platform.libc_ver()[0] == "glibc" and "malloc" not in os.environ.get("LD_PRELOAD", "")
