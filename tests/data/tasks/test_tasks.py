from __future__ import annotations

from pathlib import Path

import pytest

from hycam.data.tasks import EMBEDDED, TASKS, task
from hycam.errors import HycamError


def test_every_task_is_known_by_its_own_name() -> None:
    assert all(name == known.name for name, known in TASKS.items())
    assert set(EMBEDDED) < set(TASKS) and len(TASKS) == 10


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv.gz", "folder/mine.parquet", "./mine.json", "d/mine.JSON.GZ"])
def test_a_path_is_a_task_called_after_the_file(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert task(name).name == "mine"
    with pytest.raises(HycamError, match=r"mine\..* cannot be read: No such file"):
        task(name).fetch()
    Path("mine").write_text("{}")  # without an ending, but there
    assert task("mine").name == "mine"


@pytest.mark.parametrize("word", ["", "x" * 300, "tell me\0more", "gsm8"])
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
