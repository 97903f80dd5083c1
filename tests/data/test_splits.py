from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hycam.data.splits import FOLDS, split_fold
from hycam.errors import HycamError

# Sizes of 10 to 40 groups, dealt out so that rows of one group are not neighbours.
group_lists = st.lists(st.integers(1, 30), min_size=10, max_size=40).flatmap(
    lambda sizes: st.permutations([f"group {number}" for number, size in enumerate(sizes) for _ in range(size)])
)
seeds = st.integers(-(2**40), 2**40)


@settings(max_examples=60, deadline=None)
@given(group_lists, seeds)
def test_every_row_is_in_exactly_one_part_in_ascending_order(groups: list[str], seed: int) -> None:
    for fold in range(FOLDS):
        split = split_fold(groups, fold, seed)
        assert sorted(split.train + split.validation + split.test) == list(range(len(groups)))
        for part in (split.train, split.validation, split.test):
            assert part and part == sorted(part)


@settings(max_examples=60, deadline=None)
@given(group_lists, seeds)
def test_rows_of_one_group_are_never_in_two_parts(groups: list[str], seed: int) -> None:
    for fold in range(FOLDS):
        split = split_fold(groups, fold, seed)
        train, validation, test = (
            {groups[row] for row in part} for part in (split.train, split.validation, split.test)
        )
        assert not (train & validation or train & test or validation & test)


@settings(max_examples=60, deadline=None)
@given(group_lists, seeds)
def test_no_fold_tests_on_rows_that_any_fold_tests_or_validates_on(groups: list[str], seed: int) -> None:
    splits = [split_fold(groups, fold, seed) for fold in range(FOLDS)]
    tested = [row for split in splits for row in split.test]
    assert len(tested) == len(set(tested))
    assert not set(tested) & {row for split in splits for row in split.validation}


@settings(max_examples=200, deadline=None)
@given(group_lists, seeds)
def test_each_block_is_within_one_group_of_a_tenth_of_the_rows(groups: list[str], seed: int) -> None:
    largest = max(Counter(groups).values())
    for fold in range(FOLDS):
        split = split_fold(groups, fold, seed)
        assert abs(len(split.test) - len(groups) / 10) <= largest
        assert abs(len(split.validation) - len(groups) / 5) <= 2 * largest


@settings(max_examples=30, deadline=None)
@given(group_lists, seeds, st.randoms())
def test_the_part_of_a_group_does_not_depend_on_the_order_of_the_rows(groups: list[str], seed: int, random) -> None:
    shuffled = random.sample(groups, len(groups))
    first, second = split_fold(groups, 2, seed), split_fold(shuffled, 2, seed)
    assert {groups[row] for row in first.test} == {shuffled[row] for row in second.test}


def test_rows_without_groups_split_as_an_independent_reading_of_the_contract_says() -> None:
    groups = [f"row {number}" for number in range(100)]
    seed = 2333
    ordered = sorted(range(100), key=lambda row: hashlib.sha256(f"{seed}\0{groups[row]}".encode()).hexdigest())
    blocks = [sorted(ordered[10 * block : 10 * block + 10]) for block in range(10)]
    for fold in range(FOLDS):
        split = split_fold(groups, fold, seed)
        assert split.test == blocks[2 * fold]
        assert split.validation == sorted(blocks[2 * fold + 1] + blocks[(2 * fold + 3) % 10])


def test_a_group_larger_than_a_block_leaves_no_block_empty() -> None:
    groups = ["giant"] * 1000 + [f"small {number}" for number in range(9)]
    assert all(split_fold(groups, fold, seed).test for fold in range(FOLDS) for seed in range(20))


def test_another_seed_gives_another_split() -> None:
    groups = [str(number) for number in range(50)]
    assert split_fold(groups, 0, 1) != split_fold(groups, 0, 2)


def test_a_split_is_pinned() -> None:
    groups = [f"group {number * number % 61}" for number in range(500)]
    splits = [split_fold(groups, fold, 2333) for fold in range(FOLDS)]
    listed = json.dumps([[split.train, split.validation, split.test] for split in splits])
    assert (
        hashlib.sha256(listed.encode()).hexdigest()
        == "cc70e346fd6a5ba19d2e575bca027160995d2d9869c139358a28923e76def8b1"
    )


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_there_is_not_is_refused(fold: int) -> None:
    with pytest.raises(HycamError, match=f"no fold {fold}: the folds are 0 to 4"):
        split_fold([str(number) for number in range(20)], fold, 0)


def test_fewer_than_ten_groups_are_refused() -> None:
    with pytest.raises(HycamError, match=r"90 rows in 9 groups.*at least 10 groups.*add rows"):
        split_fold([str(number % 9) for number in range(90)], 0, 0)
