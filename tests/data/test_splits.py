from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hycam.data.partition import (
    FOLDS,
    Split,
    order_key,
    split_column,
    split_count,
    split_fold,
    straddling,
)
from hycam.errors import HycamError

# Sizes of 10 to 40 groups, dealt out so that rows of one group are not neighbours.
group_lists = st.lists(st.integers(1, 30), min_size=10, max_size=40).flatmap(
    lambda sizes: st.permutations([f"group {number}" for number, size in enumerate(sizes) for _ in range(size)])
)
seeds = st.integers(-(2**40), 2**40)


@settings(max_examples=25, deadline=None)
@given(group_lists, seeds)
def test_folds_lose_no_row_separate_no_group_and_test_on_nothing_that_was_validated_on(
    groups: list[str], seed: int
) -> None:
    splits = [split_fold(groups, fold, seed) for fold in range(FOLDS)]
    largest = max(Counter(groups).values())
    for split in splits:
        parts = (split.train, split.validation, split.test)
        assert sorted(split.train + split.validation + split.test) == list(range(len(groups)))
        assert all(part and part == sorted(part) for part in parts)
        train, validation, test = ({groups[row] for row in part} for part in parts)
        assert not (train & validation or train & test or validation & test)
        # Each block is within one group of a tenth of the rows.
        assert abs(len(split.test) - len(groups) / 10) <= largest
        assert abs(len(split.validation) - len(groups) / 5) <= 2 * largest
    tested = [row for split in splits for row in split.test]
    assert len(tested) == len(set(tested))
    assert not set(tested) & {row for split in splits for row in split.validation}


def test_the_part_of_a_group_does_not_depend_on_the_order_of_the_rows() -> None:
    groups = [f"group {number * number % 37}" for number in range(200)]
    found = [{order[row] for row in split_fold(order, 2, 5).test} for order in (groups, groups[::-1], sorted(groups))]
    assert found[0] == found[1] == found[2]


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
    with pytest.raises(HycamError, match=r"90 rows in 9 groups.*at least 10 groups.*Add rows"):
        split_fold([str(number % 9) for number in range(90)], 0, 0)


@pytest.mark.parametrize(
    ("seed", "text", "digest"),
    [
        (2333, "train.jsonl:1", "38357a82f5a02b7b03219be0ffbbec193f087e8a41e273b5f73933d1d5f9780a"),
        (0, "", "e4f60d0aa6d7f3d3b6a6494b1c861b99f649c6f9ec51abaf201b20f297327c95"),
        (-7, "Grüße\0\n", "71b9e0386cf99df21cd529a87d5ad3b75414dffd310de965ddcd27eee0b96678"),
    ],
)
def test_the_order_key_is_pinned(seed: int, text: str, digest: str) -> None:
    assert order_key(seed, text).hex() == digest
    assert order_key(seed, text) == hashlib.sha256(str(seed).encode() + b"\0" + text.encode()).digest()


class TestCount:
    """So many rows for validation and test, the rest for training."""

    @staticmethod
    def wanted(groups: list[str], fractions: tuple[float, float]) -> tuple[int, int]:
        """Validation and test rows that leave one for training."""
        rows = len(groups)
        test = 1 + int(fractions[0] * (rows - 3))
        return 1 + int(fractions[1] * (rows - 2 - test)), test

    @settings(max_examples=30, deadline=None)
    @given(group_lists, seeds, st.tuples(st.floats(0, 1), st.floats(0, 1)))
    def test_no_row_is_lost_no_group_separated_and_parts_are_as_near_to_what_was_asked_as_whole_groups_allow(
        self, groups: list[str], seed: int, fractions: tuple[float, float]
    ) -> None:
        validation, test = self.wanted(groups, fractions)
        split = split_count(groups, validation, test, seed)
        parts = (split.train, split.validation, split.test)
        assert all(part and part == sorted(part) for part in parts)
        assert sorted(row for part in parts for row in part) == list(range(len(groups)))
        assert straddling(groups, split) == 0
        sizes, rows = Counter(groups), len(groups)
        largest = max(sizes.values())
        misses = {
            "test": abs(len(split.test) - test),
            "validation": abs(len(split.validation) - validation),
            "train": abs(len(split.train) - (rows - validation - test)),
        }
        ends, ordered = [0], sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
        for group in ordered:
            ends.append(ends[-1] + sizes[group])
        nearest = [min(ends, key=lambda end: (abs(end - cut), end)) for cut in (test, test + validation)]
        if 0 < nearest[0] < nearest[1] < rows:
            assert (len(split.test), len(split.test) + len(split.validation)) == tuple(nearest)
            assert {groups[row] for row in split.test} == set(ordered[: ends.index(nearest[0])])
            assert max(misses["test"], misses["train"]) * 2 <= largest and misses["validation"] <= largest
        else:  # a part would have had no group
            assert all(miss < 2 * largest for miss in misses.values())

    def test_rows_without_groups_are_split_to_the_row_in_the_order_of_their_hashes(self) -> None:
        groups = [f"row {number}" for number in range(50)]
        ordered = sorted(range(50), key=lambda row: hashlib.sha256(f"5\0row {row}".encode()).hexdigest())
        split = split_count(groups, 12, 7, 5)
        assert split.test == sorted(ordered[:7])
        assert split.validation == sorted(ordered[7:19])

    @pytest.mark.parametrize(
        ("groups", "validation", "test"),
        [(["a", "b", "c", "d"], 2, 2), (["a", "b", "c"], 1, 9), (["a", "a", "a", "b"], 1, 1)],
    )
    def test_what_would_leave_a_part_empty_is_refused(self, groups: list[str], validation: int, test: int) -> None:
        with pytest.raises(
            HycamError, match=rf"{len(groups)} rows in \d groups cannot give {validation} .*, {test} .*Ask for fewer"
        ):
            split_count(groups, validation, test, 0)


class TestDisjoint:
    """Replicates that share no row, each split by count."""

    # Small groups, and so many that every replicate has some for each part.
    many_groups = st.lists(st.integers(1, 3), min_size=36, max_size=60).flatmap(
        lambda sizes: st.permutations([f"group {number}" for number, size in enumerate(sizes) for _ in range(size)])
    )

    @settings(max_examples=25, deadline=None)
    @given(many_groups, seeds)
    def test_replicates_share_no_row_cover_all_separate_no_group_and_are_as_large_as_asked_to_a_group(
        self, groups: list[str], seed: int
    ) -> None:
        splits = [split_count(groups, 2, 3, seed, 3, replicate) for replicate in range(3)]
        largest = max(Counter(groups).values())
        owner: dict[str, int] = {}
        rows: list[int] = []
        for number, split in enumerate(splits):
            assert straddling(groups, split) == 0
            mine = split.train + split.validation + split.test
            assert all(owner.setdefault(groups[row], number) == number for row in mine)
            assert all(part and part == sorted(part) for part in (split.train, split.validation, split.test))
            assert abs(len(mine) - len(groups) / 3) <= largest
            assert abs(len(split.test) - 3) < 2 * largest and abs(len(split.validation) - 2) < 2 * largest
            rows += mine
        assert sorted(rows) == list(range(len(groups)))

    def test_rows_without_groups_are_split_as_an_independent_reading_says(self) -> None:
        groups = [f"row {number}" for number in range(100)]
        ordered = sorted(range(100), key=lambda row: hashlib.sha256(f"2333\0row {row}".encode()).hexdigest())
        for replicate in range(5):
            block = ordered[20 * replicate : 20 * replicate + 20]
            assert split_count(groups, 3, 7, 2333, 5, replicate) == Split(
                train=sorted(block[10:]), validation=sorted(block[7:10]), test=sorted(block[:7])
            )

    @pytest.mark.parametrize("replicate", [-1, 3])
    def test_a_replicate_that_there_is_not_is_refused(self, replicate: int) -> None:
        with pytest.raises(HycamError, match=f"no replicate {replicate}: they are 0 to 2.*data.fold"):
            split_count([str(row) for row in range(30)], 1, 1, 0, 3, replicate)

    def test_too_few_groups_or_rows_for_the_replicates_are_refused(self) -> None:
        with pytest.raises(HycamError, match="30 rows in 2 groups cannot give 3 disjoint replicates"):
            split_count([str(row % 2) for row in range(30)], 1, 1, 0, 3, 0)
        with pytest.raises(HycamError, match=r"10 rows in 10 groups cannot give 4 for validation, 6 for the test"):
            split_count([str(row) for row in range(30)], 4, 6, 0, 3, 1)


class TestColumn:
    """The rows say themselves where they belong."""

    def test_every_spelling_of_a_part_is_known(self) -> None:
        parts = ["train", "dev", "Test", " training ", "val", "valid", "VALIDATION", "test"]
        assert split_column(parts, "part") == Split(train=[0, 3], validation=[1, 4, 5, 6], test=[2, 7])

    def test_another_word_is_refused_with_the_rows_that_have_it(self) -> None:
        with pytest.raises(HycamError, match=r'column "fold" says "7" in 2 rows.*train.*dev'):
            split_column(["train", "dev", "test", "7", "7"], "fold")

    def test_a_part_without_rows_is_refused_with_what_there_is(self) -> None:
        with pytest.raises(HycamError, match=r"no row to validation and test \(it has: train 3\)"):
            split_column(["train"] * 3, "part")


def test_groups_in_several_parts_are_counted_once_each() -> None:
    groups = ["a", "a", "a", "b", "b", "c", "d"]
    assert straddling(groups, Split(train=[0, 3, 5], validation=[1, 6], test=[2, 4])) == 2
    assert straddling(groups, Split(train=[0, 1, 2], validation=[3, 4], test=[5, 6])) == 0
