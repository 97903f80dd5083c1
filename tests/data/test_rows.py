from __future__ import annotations

import re

import pytest

from hycam.data.rows import SourceRow
from hycam.errors import HycamError


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (4.5, "a number (4.5)"),
        (float("nan"), "a number (nan)"),
        (True, "true or false"),
        (["x"], "a list"),
        ({}, "an object"),
        (b"x", "of type bytes"),
        ("a\ud800", "half of a character (\\ud800)"),
    ],
)
def test_what_is_not_text_is_refused_where_text_belongs(value: object, said: str) -> None:
    with pytest.raises(HycamError, match=re.escape(said)) as caught:
        SourceRow("folder/a.jsonl", 7, {"output": value}).text("output")
    assert str(caught.value).startswith("folder/a.jsonl:7: ")


def test_a_missing_column_is_named_with_the_nearest_and_with_those_there_are() -> None:
    with pytest.raises(HycamError, match=r'no column "output".*Did you mean "outputs"\? Columns: prompt, outputs'):
        SourceRow("a.csv", 2, {"prompt": "", "outputs": ""}).text("output")


def test_a_deep_or_long_value_is_shown_shortened() -> None:
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, ["x" * 10_000] * 1000, {str(n): n for n in range(10_000)}):
        with pytest.raises(HycamError, match="text in quotes was expected") as caught:
            SourceRow("a.jsonl", 1, {"output": value}).text("output")
        assert len(str(caught.value)) < 400


def test_null_is_empty_text() -> None:
    assert SourceRow("a.jsonl", 1, {"input": None}).text("input") == ""
