from __future__ import annotations

from pathlib import Path

import pytest

import hycam.downloads
from hycam.data.catalog import catalog, fetch
from hycam.data.tasks import TASKS


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an empty data folder, and a pip that must not be called."""
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    monkeypatch.setattr(hycam.downloads.subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    return tmp_path


def test_listing_fetches_and_writes_nothing(nothing_here: Path) -> None:
    entries = catalog()
    assert [entry.name for entry in entries] == list(TASKS)
    assert all(entry.rows is None and entry.path is None for entry in entries)
    assert all(entry.domain and entry.source and entry.licence for entry in entries)
    assert list(nothing_here.iterdir()) == []


def test_rows_are_counted_where_the_file_is_here(nothing_here: Path) -> None:
    file = nothing_here / "auto_cot.jsonl"
    file.write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 3)
    entry = next(entry for entry in catalog() if entry.name == "auto_cot")
    assert (entry.rows, entry.path) == (3, str(file))


def test_fetching_says_where_the_file_is(nothing_here: Path) -> None:
    file = nothing_here / "auto_cot.jsonl"
    file.write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    assert fetch("auto_cot") == str(file)
