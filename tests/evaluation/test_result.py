from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.errors import HycamError
from hycam.evaluation.result import METRICS_FILE, PREDICTIONS_FILE, Evaluation

ENTRY = {"task": "one", "row": "a:1", "prompt": "say\nit", "prediction": 'né\u2028 "x"', "reference": "犬", "nll": 1.5}
RESULT = Evaluation(
    tasks={"one": {"perplexity": float("inf"), "nll": 800.0, "tokens": 3, "bleu4": None}},
    macro={"perplexity": 2.5},
    pooled={"perplexity": 2.5},
    bleu_signature="nrefs:1",
    max_new_tokens=8,
    predictions=[ENTRY, {**ENTRY, "row": "a:2", "prediction": None}],
)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 bytes: a real failure of `write`, as of a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_written_reads_back_as_it_was(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "new" / "folder")
    written = tmp_path / "new" / "folder"
    assert sorted(path.name for path in written.iterdir()) == [METRICS_FILE, PREDICTIONS_FILE]
    metrics = json.loads((written / METRICS_FILE).read_text(encoding="utf-8"))
    assert metrics == {**RESULT.metrics, "tasks": {"one": {**RESULT.tasks["one"], "perplexity": None}}}
    lines = (written / PREDICTIONS_FILE).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == RESULT.predictions


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    RESULT.write(tmp_path)
    replace(RESULT, max_new_tokens=9, predictions=[]).write(tmp_path)
    assert json.loads((tmp_path / METRICS_FILE).read_text())["max_new_tokens"] == 9
    assert (tmp_path / PREDICTIONS_FILE).read_text() == ""


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    RESULT.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    request.getfixturevalue("full_disk")
    with pytest.raises(HycamError, match=r"Could not write .*predictions\.jsonl .*Make room"):
        replace(RESULT, max_new_tokens=9).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(HycamError, match="Could not write"):
        RESULT.write(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
