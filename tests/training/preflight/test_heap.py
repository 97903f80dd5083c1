"""The model of the allocator: its bookkeeping, and the three ways in which it holds more than is used."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hycam.training.preflight import heap as module
from hycam.training.preflight.heap import Heap, held_at_most, machines_heap

MB = 1 << 20


def test_what_is_allocated_is_held_and_a_large_block_is_given_back() -> None:
    heap = Heap(threshold=4 * MB)
    heap.allocate("large", 10 * MB)
    heap.allocate("small", MB)
    assert heap.held == pytest.approx(11 * MB, rel=0.02)
    heap.free("large")
    assert heap.held == pytest.approx(MB, rel=0.2)
    assert heap.peak == pytest.approx(11 * MB, rel=0.02)


def test_a_place_in_the_middle_stays_and_is_used_again() -> None:
    heap = Heap(threshold=64 * MB)
    for key in "abc":
        heap.allocate(key, MB)
    held = heap.held
    heap.free("b")
    assert heap.held == held
    heap.allocate("again", MB)
    assert heap.held == held
    for key in ("a", "again", "c"):
        heap.free(key)
    assert not heap._used


def test_taken_slivers_keep_a_place_from_a_block_of_its_own_size() -> None:
    heap = Heap(threshold=64 * MB, taken=1.0)
    heap.pinning = True
    for key in "abc":
        heap.allocate(key, MB)
    held = heap.held
    heap.free("b")
    heap.allocate("again", MB)
    assert heap.held > held + MB // 2
    heap.unpin()
    heap.free("again")
    heap.allocate("once more", MB)
    assert heap.held < held + MB + MB // 2


def test_the_top_is_given_back_past_the_threshold() -> None:
    heap = Heap(threshold=4 * MB)
    for key in range(20):
        heap.allocate(key, MB)
    for key in reversed(range(20)):
        heap.free(key)
    assert heap.held <= 8 * MB + MB


def test_free_places_and_blocks_never_overlap_and_fill_the_heap() -> None:
    heap, choice = Heap(threshold=MB), random.Random(3)
    alive: dict[int, int] = {}
    for number in range(3000):
        heap.pinning = choice.random() < 0.5
        if alive and choice.random() < 0.45:
            key = choice.choice(list(alive))
            heap.free(key)
            del alive[key]
        else:
            alive[number] = choice.choice([64, 1000, 40_000, 500_000, 2_000_000])
            heap.allocate(number, alive[number])
        if number % 100 == 99:
            chunks = sorted([*heap._used.values(), *heap._free.items(), *heap._pins])
            assert all(start + size == after for (start, size), (after, _) in pairwise(chunks))
            assert sum(chunks[-1]) == heap._top <= heap._end
            assert heap.held >= sum(alive.values())


def test_replayed_steps_hold_gradients_states_and_activations() -> None:
    # A forward pass keeps two activations, a backward pass makes a gradient and frees them.
    micro_batch = [(0, 8 * MB, True), (1, 8 * MB, True), (2, 4 * MB, False), (0, -1, False), (1, -1, False)]
    training, validating = held_at_most(micro_batch, 2, [4 * MB, 4 * MB], [(0, 6 * MB, False), (0, -1, False)])
    assert training == pytest.approx((16 + 4 + 8) * MB, rel=0.05)
    assert 14 * MB <= validating <= training + MB


def test_the_environments_threshold_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert machines_heap().threshold == 65536
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    assert machines_heap().threshold == module._MOST_THRESHOLD
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so")
    assert not module.is_glibc()
