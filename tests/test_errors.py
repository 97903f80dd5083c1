"""What a message for a reader promises wherever it is written to."""

from __future__ import annotations

import json
import logging
import pickle

import pytest

from hycam.data.llama_factory import dataset_info
from hycam.errors import HycamError


def test_a_message_with_half_a_character_can_be_written_to_a_file() -> None:
    error = HycamError(json.loads('"the column \\ud83d is missing: \U0001f600 \u00e9"'))
    assert str(error) == "the column \\ud83d is missing: \U0001f600 \u00e9"
    assert str(error).encode()


def test_errors_pass_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(HycamError("what is wrong")))
    assert isinstance(error, HycamError) and str(error) == "what is wrong"


def test_names_of_entries_that_are_left_out_can_be_written_to_a_log(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "q", "output": "a"}\n')
    entries = {"good": {"file_name": "rows.jsonl"}, "\ud800": {"file_name": 7}}
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(entries))
    with caplog.at_level(logging.WARNING):
        assert len(dataset_info(path).tasks()) == 1
    assert "are skipped: \\ud800" in caplog.text and caplog.text.encode()
