from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from hycam.data.load import load_task
from hycam.errors import HycamError


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_becomes_rows_with_identity_and_group(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"instruction": "Sum.", "input": "2 3", "output": "5"},
        {"instruction": "Sing.", "input": " ", "output": "La"},
    )
    dataset = load_task(str(path))
    other = {"system": "", "history": [], "part": ""}
    assert dataset.to_list() == [
        {"row": "mine.jsonl:1", "group": "2 3", "instruction": "Sum.", "input": "2 3", "response": "5", **other},
        {"row": "mine.jsonl:2", "group": "Sing.", "instruction": "Sing.", "input": " ", "response": "La", **other},
    ]


def test_rows_without_response_or_question_are_left_out_and_counted(tmp_path: Path, caplog) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"instruction": "a", "input": "", "output": "1"},
        {"instruction": "b", "input": "", "output": " \n"},
        {"instruction": "c", "input": "", "output": None},
        {"instruction": "", "input": " ", "output": "1"},
        {"instruction": "", "input": "text to go on with", "output": "1"},
    )
    with caplog.at_level(logging.WARNING):
        assert load_task(str(path))["row"] == ["mine.jsonl:1", "mine.jsonl:5"]
    assert "mine: 3 of 5 rows left out" in caplog.text


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"instruction": "a", "output": ""})
    with pytest.raises(HycamError, match=r"mine\.jsonl has no row with an instruction and a response"):
        load_task(str(path))
    header_only = tmp_path / "mine.csv"
    header_only.write_text("instruction,output\n")
    with pytest.raises(HycamError, match=r"mine\.csv has no row"):
        load_task(str(header_only))


def test_an_error_in_a_row_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"instruction": "a", "output": "b"}, {"instruction": "a", "output": 5})
    with pytest.raises(HycamError, match=rf'^{path}:2: "output" is a number \(5\)'):
        load_task(str(path))
