from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from hycam.data.load import load_task
from hycam.data.tasks import TASKS
from hycam.errors import HycamError

LINE = b'{"instruction": "Go.", "input": "", "output": "Gone."}\n'
HUB_ROWS = {
    "icliniq": {"input": "It hurts.", "answer_icliniq": "Rest."},
    "dolly": {"instruction": "Go.", "context": "there", "response": "Gone.", "category": "qa"},
    "code_alpaca": {"instruction": "Go.", "input": "", "output": "Gone."},
    "webgpt": {"question": {"full_text": "Q"}, "answer_0": "a", "answer_1": "b", "score_0": 0.1, "score_1": -0.1},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A hub that has the datasets; the list fills with what was asked of it."""
    monkeypatch.delenv("HYCAM_DATA", raising=False)
    asked: list[tuple] = []

    def load_dataset(repository: str, subset: str | None, revision: str, split: str) -> datasets.Dataset:
        asked.append((repository, revision, split))
        (name,) = [name for name in HUB_ROWS if f"hub {repository}" in TASKS[name].sources[-1].describe()]
        return datasets.Dataset.from_list([HUB_ROWS[name]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("name", HUB_ROWS)
def test_without_a_file_the_hub_is_asked_for_a_named_revision(name: str, hub: list[tuple]) -> None:
    (row,) = load_task(name).to_list()
    ((repository, revision, split),) = hub
    assert row["row"] == f"{repository.split('/')[1]}:1"
    assert revision and split == "train"
    assert row["response"] in {"Rest.", "Gone.", "a"}


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_file_in_the_data_folder_goes_before_the_hub(tmp_path: Path, monkeypatch, hub: list[tuple], end: str) -> None:
    (tmp_path / f"dolly.jsonl{end}").write_bytes(gzip.compress(LINE) if end else LINE)
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    assert load_task("dolly")["row"] == ["dolly.jsonl:1"]
    assert hub == []
    assert TASKS["dolly"].path() == tmp_path / f"dolly.jsonl{end}"


def test_without_file_and_hub_the_message_says_what_was_tried_and_what_to_do(tmp_path: Path, monkeypatch) -> None:
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    with pytest.raises(HycamError) as caught:
        load_task("dolly")
    for part in (f"HYCAM_DATA is {tmp_path}", "no dolly.jsonl", "(no route to host)", "Put dolly.jsonl"):
        assert part in str(caught.value)
    assert "long story" not in str(caught.value)


def test_auto_cot_is_to_be_had_as_a_file_only(monkeypatch, hub: list[tuple]) -> None:
    with pytest.raises(HycamError, match=r"HYCAM_DATA is not set.*Auto-CoT\.json"):
        load_task("auto_cot")
    assert hub == []


def test_a_malformed_file_does_not_fall_back_to_the_hub(tmp_path: Path, monkeypatch, hub: list[tuple]) -> None:
    (tmp_path / "dolly.jsonl").write_bytes(LINE + b"{\n")
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    with pytest.raises(HycamError, match=r"dolly\.jsonl:2:"):
        load_task("dolly")
    assert hub == []
