from __future__ import annotations

import pytest

from hycam.data.formats import SourceRow
from hycam.data.tasks.columns import by_column_names
from hycam.errors import HycamError


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"instruction": "ask", "input": "in", "output": "say"}, "in"),
        ({"instruction": "ask", "output": "say"}, ""),
        ({"instruction": "ask", "context": "in", "response": "say", "category": "qa"}, "in"),
        ({"instruction": "ask", "input": "in", "response": "say"}, "in"),
        ({"instruction": "ask", "response": "say"}, ""),
        ({"prompt": "ask", "completion": "say"}, ""),
        ({"question": "ask", "answer": "say"}, ""),
        ({"question": "ask", "context": "in", "answer": "say"}, "in"),
        ({"instruction": "ask", "input": None, "output": "say"}, ""),
    ],
)
def test_the_usual_names_are_understood(fields: dict, given: str) -> None:
    example = by_column_names(SourceRow("a.jsonl", 1, fields))
    assert (example.instruction, example.input, example.response) == ("ask", given, "say")


def test_other_columns_are_refused_with_what_was_expected_and_what_is_there() -> None:
    row = SourceRow("a.csv", 2, {"instruction": "x", "label": "y"})
    with pytest.raises(HycamError, match=r"a.csv:2: .*instruction and output, .*columns are: instruction, label"):
        by_column_names(row)
