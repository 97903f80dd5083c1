from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hycam.data.read import data_files, read_rows
from hycam.errors import HycamError

ROW = b'{"instruction": "Go.", "output": "Gone."}\n'


def write(folder: Path, content: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@contextmanager
def nobody_may_enter(folder: Path) -> Iterator[None]:
    """Takes the rights to a folder, and from root its own."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        folder.chmod(mode)


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    inside = tmp_path / "data" / "sub"
    inside.mkdir(parents=True)
    write(tmp_path / "data", ROW, "a.jsonl")
    file = write(inside, ROW, "b.jsonl")
    tried: list[str] = []
    with nobody_may_enter(inside):
        for attempt in (lambda: data_files(tmp_path / "data"), lambda: data_files(file), lambda: list(read_rows(file))):
            try:
                attempt()
            except HycamError as error:
                tried.append(str(error))
    assert len(tried) == 3 and all("Permission denied" in said and str(tmp_path) in said for said in tried)


def test_a_folder_gives_its_data_files_in_the_order_of_their_names(tmp_path: Path, caplog) -> None:
    elsewhere = tmp_path / "elsewhere"
    folder = tmp_path / "data.jsonl"  # called like a file
    for place in (elsewhere, folder / "b", folder / ".git"):
        place.mkdir(parents=True)
    for name in ("c.JSONL", "a.csv.gz", "b/z.parquet", "b/a.json", ".hidden.jsonl", ".git/x.json", "part.jsonl.zst"):
        (folder / name).touch()
    (elsewhere / "linked.jsonl").touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "to_nowhere.jsonl").symlink_to(tmp_path / "none")  # reading it says so
    with caplog.at_level(logging.WARNING):
        found = data_files(folder)
    assert [file.relative_to(folder).as_posix() for file in found] == [
        "a.csv.gz",
        "b/a.json",
        "b/z.parquet",
        "c.JSONL",
        "link/linked.jsonl",
        "to_nowhere.jsonl",
    ]
    with pytest.raises(HycamError, match="No such file"):
        list(read_rows(folder / "to_nowhere.jsonl"))
    assert "not those of data files: part.jsonl.zst" in caplog.text and "hidden" not in caplog.text


def test_what_gives_no_data_or_no_end_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(HycamError, match=r"has no data file: \.jsonl, \.json, \.csv, \.parquet"):
        data_files(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(HycamError, match=r"again is a link to a folder that contains it"):
        data_files(tmp_path)
    os.mkfifo(tmp_path / "a.jsonl")  # refused before it is waited for
    with pytest.raises(HycamError, match="neither a file nor a folder"):
        data_files(tmp_path / "a.jsonl")
