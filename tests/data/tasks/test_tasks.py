from __future__ import annotations

from pathlib import Path

import pytest

from hycam.data.tasks import EMBEDDED, TASKS, task
from hycam.errors import HycamError


def test_every_task_is_known_by_its_own_name() -> None:
    assert all(name == known.name for name, known in TASKS.items())
    assert set(EMBEDDED) < set(TASKS) and len(TASKS) == 10


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv.gz", "folder/mine.parquet", "./mine.json", "d/mine.JSON.GZ"])
def test_a_path_is_a_task_called_after_the_file(name: str) -> None:
    assert task(name).name == "mine"


def test_a_file_without_an_ending_is_a_task_when_it_is_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("{}")
    assert task("mine").name == "mine"


def test_a_misspelt_task_is_named_with_the_nearest() -> None:
    with pytest.raises(HycamError, match=r'no task called "gsm8"\. Did you mean "gsm8k"\?'):
        task("gsm8")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.jsonl")
    with pytest.raises(HycamError, match=r"none\.jsonl cannot be read: No such file"):
        task(missing).fetch()


@pytest.mark.parametrize("word", ["", "x" * 300, "tell me\0more"])
def test_what_no_file_can_be_called_is_no_task(word: str) -> None:
    with pytest.raises(HycamError, match="no task called"):
        task(word)


def test_the_home_folder_of_a_user_who_is_not_there_is_refused() -> None:
    with pytest.raises(HycamError, match=r"~nosuchuser/mine\.jsonl cannot be read: there is no home folder"):
        task("~nosuchuser/mine.jsonl")


def test_the_counts_of_the_paper_are_compared_with_all_rows_of_the_source() -> None:
    dolly = TASKS["dolly"]
    assert dolly.paper is not None
    assert dolly.compare(dolly.paper.samples) is None
    assert f"{dolly.paper.samples:,}" in str(dolly.compare(12)) and str(dolly.compare(12)).startswith("dolly: 12 rows")
    assert TASKS["squad"].compare(12) is None
