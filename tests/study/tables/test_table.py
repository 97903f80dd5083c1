"""Which entries of a table are marked as the best."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hycam.study.tables.table import Entry, Table, marked


def column(*values: float | None, form: str = ".3f") -> list[list[Entry]]:
    return [[Entry("not run" if value is None else format(value, form), value)] for value in values]


def marks(block: list[list[Entry]], lower: bool) -> list[str]:
    return ["".join(("b" * row[0].best, "s" * row[0].second)) for row in marked(block, [lower])]


def test_the_lowest_perplexity_and_the_highest_bleu_are_the_best() -> None:
    assert marks(column(3.2, 3.0, 3.1), lower=True) == ["", "b", "s"]
    assert marks(column(0.2, 0.1, 0.3), lower=False) == ["s", "", "b"]


def test_what_prints_alike_shares_its_mark() -> None:
    assert marks(column(3.0004, 2.9996, 3.1, 3.1001, 3.2), lower=True) == ["b", "b", "s", "s", ""]


def test_what_was_not_run_what_is_muted_and_what_has_no_rival_are_not_marked() -> None:
    published = [Entry("1.000", 1.0, muted=True)]
    assert marks([*column(3.2, None, 3.1), published], lower=True) == ["s", "", "b", ""]
    assert marks(column(3.2, None), lower=True) == ["", ""]
    assert marks(column(3.2, 3.2), lower=True) == ["", ""]


def test_a_number_is_read_as_it_is_printed() -> None:
    block = [[Entry("1,250 ± 3", 1250.4)], [Entry("900 ± 3", 900.0)], [Entry("+3.00", 3.0)]]
    assert marks(block, lower=False) == ["b", "s", ""]


@given(st.lists(st.floats(0.5, 9.5), min_size=2, max_size=8), st.booleans())
def test_no_entry_beats_the_best_and_only_the_best_beat_the_second(values: list[float], lower: bool) -> None:
    block = marked(column(*values), [lower])
    printed = [float(row[0].text) * (1 if lower else -1) for row in block]
    best = [number for number, row in zip(printed, block, strict=True) if row[0].best]
    second = [number for number, row in zip(printed, block, strict=True) if row[0].second]
    assert best == ([min(printed)] * printed.count(min(printed)) if len(set(printed)) > 1 else [])
    assert set(second) == set(sorted(set(printed))[1:2])


def test_columns_without_a_direction_stay_as_they_are() -> None:
    block = [[Entry("LoRA"), Entry("3.2", 3.2)], [Entry("HyCAM"), Entry("3.1", 3.1)]]
    assert [[entry.best for entry in row] for row in marked(block, [None, True])] == [[False, False], [False, True]]


def test_headings_have_what_stands_above_them() -> None:
    table = Table("t", "T", "", ["Method", "PPL", "BLEU-4", "PPL"], [], [("", 1), ("A", 2), ("B", 1)])
    assert table.headings == ["Method", "A PPL", "A BLEU-4", "B PPL"]
    assert Table("t", "T", "", ["Method", "PPL"], []).headings == ["Method", "PPL"]
