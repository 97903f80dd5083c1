"""Files are there whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from hycam.errors import HycamError
from hycam.files import whole_folder, write_whole


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a real failure, as on a full disk
    try:
        with pytest.raises(HycamError, match=r"Could not write .*a\.json .*Make room"):
            write_whole(path, "new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(HycamError, match="Could not write"):
        write_whole(path / "b.json", "below a file")


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    seen = []
    monkeypatch.setattr("os.fsync", lambda descriptor: seen.append(path.read_text()))
    write_whole(path, "new")
    # Complete on the disk under another name while the old one still stands; then the folder, with the new name.
    assert seen == ["old", "new"]
    assert path.read_text() == "new"


def test_a_folder_takes_the_old_ones_place_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    for content in ("one", "two"):
        with whole_folder(path) as folder:
            (folder / content).write_text(content)
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_that_fails_in_the_middle_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    with whole_folder(path) as folder:
        (folder / "one").write_text("one")
    with pytest.raises(RuntimeError, match="stopped"), whole_folder(path) as folder:
        (folder / "two").write_text("two")
        raise RuntimeError("stopped")
    assert [entry.name for entry in path.iterdir()] == ["one"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]
