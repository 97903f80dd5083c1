"""Entries of the cache: whole or not there, made once, told apart by what they are made of."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

import hycam.data.cache
import hycam.data.load
from hycam.data.cache import cached, entry_of, read_arrow
from hycam.data.chosen import own_task
from hycam.data.columns import by_column_names
from hycam.data.load import load_task
from hycam.data.recipe import TaskRecipe
from hycam.data.rows import SourceRow
from hycam.data.sources import NamedFile, Task
from hycam.errors import HycamError


def write(path: Path, *answers: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"q": f"ask {a}", "instruction": "Go.", "output": a}) + "\n" for a in answers))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and for those that a test starts."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(hycam.data.cache, "cache_folder", lambda: folder)
    monkeypatch.setenv("HYCAM_CACHE", str(folder))
    return folder


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data").iterdir() if not path.name.startswith("."))


def left_over(folder: Path) -> list[str]:
    return [path.name for path in (folder / "data").iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


def test_an_entry_is_built_once_for_each_key(folder: Path) -> None:
    made: list[str] = []

    def build(at: Path) -> None:
        made.append(str(at))
        (at / "content").write_text(str(len(made)))

    first = cached("a task", {"rows": "x", "skip": False}, build)
    assert cached("a task", {"skip": False, "rows": "x"}, build) == first  # in whatever order
    other = cached("a task", {"rows": "x", "skip": True}, build)
    assert [(entry / "content").read_text() for entry in (first, other)] == ["1", "2"]
    assert len(made) == 2 and entries(folder) == sorted([first.name, other.name]) and left_over(folder) == []


@pytest.mark.parametrize("name", ["", ".", "../../up", "a/b\\c:d*[e]?", "𝒜" * 200, "x" * 500, "-", "gr\udcfc"])
def test_a_task_may_have_any_name(folder: Path, name: str) -> None:
    entry = cached(name, {}, lambda at: (at / "content").touch())
    assert entry.parent == folder / "data" and (entry / "content").exists()


def test_what_an_entry_is_made_of_is_in_its_key(folder: Path, tmp_path: Path, monkeypatch) -> None:
    file = write(tmp_path / "a" / "mine.jsonl", "1", "2")

    def entry(path: Path, skip: bool = False, **settings: dict) -> str:
        return entry_of(load_task(own_task(TaskRecipe(path=str(path), **settings)), skip))

    first = entry(file)
    assert entry(write(tmp_path / "elsewhere" / "mine.jsonl", "1", "2")) == first
    later = file.stat().st_mtime + 100
    os.utime(file, (later, later))
    assert entry(file) == first
    others = {
        entry(file, skip=True),
        entry(file, columns={"instruction": "q", "response": "output"}),
        entry(file, columns={"group": "q"}),
        entry(file, tags={"user": "guest"}),
        entry(write(tmp_path / "a" / "yours.jsonl", "1", "2")),  # its rows have other identities
    }
    assert len(others) == 5 and first not in others
    status = file.stat()
    write(file, "1", "3")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size and entry(file) != first
    assert load_task(str(file))["response"][:] == ["1", "3"]
    monkeypatch.setattr(hycam.data.cache, "_code", lambda: "another version")
    write(file, "1", "2")
    assert entry(file) != first


def test_an_error_while_an_entry_is_made_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", *map(str, range(3000)))
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(HycamError, match=r"mine\.jsonl:3001:2: "):
        load_task(str(file))
    assert entries(folder) == left_over(folder) == []


RIGHT = (0, list(map(str, range(7))))


class Child:
    """A forked process that reads seven rows, each with ``convert``, two rows at a time."""

    def __init__(
        self, file: Path, convert: Callable[[SourceRow], Any], before: Callable[[], None] | None = None
    ) -> None:
        reads, writes = os.pipe()
        self.number = os.fork()
        if self.number == 0:
            code = 1
            try:
                hycam.data.load._ROWS_AT_ONCE = 2
                hycam.data.load._called = lambda convert: "the same"  # what converters count beside changes no content
                if before is not None:
                    before()
                task = Task("mine", "tests", "none", (NamedFile(file, convert),))
                os.write(writes, json.dumps(load_task(task)["response"][:]).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        self.pipe = os.fdopen(reads)

    def outcome(self) -> tuple[int, list[str] | None]:
        with self.pipe:
            answer = self.pipe.read()
        return os.waitpid(self.number, 0)[1], json.loads(answer) if answer else None


def killed_at(limit: int, file: Path) -> Child:
    """One that is killed at the step ``limit`` of those that Python reports to an audit hook, and of its rows."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def converted(row: SourceRow) -> Any:
        step()
        return by_column_names(row)

    def hook(event: str, _: object) -> None:
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl", "tempfile"):
            step()

    return Child(file, converted, lambda: sys.addaudithook(hook))


def state(folder: Path) -> tuple[int, int]:
    """How many entries there are, and how many half-made ones."""
    return (len(entries(folder)), len(left_over(folder))) if (folder / "data").exists() else (0, 0)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_at_any_step_nothing_half_made_is_believed(folder: Path, tmp_path: Path, stride: int) -> None:
    file = write(tmp_path / "mine.jsonl", *RIGHT[1])
    seen = set()
    limit = 1
    while os.WIFSIGNALED((last := killed_at(limit, file).outcome())[0]):
        whole, scratch = state(folder)
        seen.add((whole, scratch))
        assert Child(file, by_column_names).outcome() == RIGHT
        # Killed when the entry is there already, an empty folder is left beside it; no later run makes the entry.
        assert state(folder) == (1, scratch if whole else 0)
        shutil.rmtree(folder / "data")
        limit += stride
    assert last == RIGHT and limit > 20
    assert {(0, 0), (0, 1)} < seen and (1 in {whole for whole, _ in seen})  # before, while, after it was made


def test_processes_that_want_one_entry_make_it_once(folder: Path, tmp_path: Path) -> None:
    file, made = write(tmp_path / "mine.jsonl", *RIGHT[1]), tmp_path / "made"

    def slowly(row: SourceRow) -> Any:
        with made.open("a") as log:
            log.write(f"{row.line} ")
        time.sleep(0.05)
        return by_column_names(row)

    children = [Child(file, slowly) for _ in range(3)]
    assert [child.outcome() for child in children] == [RIGHT] * 3
    assert made.read_text().split() == list(map(str, range(1, 8)))
    assert state(folder) == (1, 0)


def test_a_killed_process_is_no_hindrance_to_one_that_waits_for_it(folder: Path, tmp_path: Path) -> None:
    file, begun = write(tmp_path / "mine.jsonl", *RIGHT[1]), tmp_path / "begun"

    def stalls(row: SourceRow) -> Any:
        if row.line == 5 and not begun.exists():
            begun.touch()
            time.sleep(300)
        return by_column_names(row)

    stalled = Child(file, stalls)
    while not begun.exists():
        time.sleep(0.01)
    waiting = Child(file, stalls)
    time.sleep(0.5)
    assert os.waitpid(waiting.number, os.WNOHANG) == (0, 0)
    os.kill(stalled.number, signal.SIGKILL)
    assert os.WIFSIGNALED(stalled.outcome()[0]) and waiting.outcome() == RIGHT
    assert state(folder) == (1, 0)


def test_a_full_disk_is_named_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", *["x" * 10_000] * 50)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))  # no file may grow longer
    try:
        with pytest.raises(HycamError, match=rf"Could not write {folder / 'data'}.*Make room"):
            load_task(str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert entries(folder) == left_over(folder) == []
    assert len(load_task(str(file))) == 50


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch) -> None:
    file = write(tmp_path / "mine.jsonl", "1")
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(hycam.data.cache, "cache_folder", lambda: folder)
    (folder / "data").write_text("a file")
    with pytest.raises(HycamError, match=r"cache/data cannot be used .* Set HYCAM_CACHE"):
        load_task(str(file))
    (folder / "data").unlink()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hycam.data.cache, "FileLock", refused)
    with pytest.raises(HycamError, match=r"cache/data cannot be used .*Permission denied"):
        load_task(str(file))


@pytest.mark.parametrize("file", ["rows.arrow", "counts.json"])
@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_damaged_entry_is_named_with_what_to_do(folder: Path, tmp_path: Path, file: str, content) -> None:
    rows = write(tmp_path / "mine.jsonl", "1", "2")
    load_task(str(rows))
    (name,) = entries(folder)
    damaged = folder / "data" / name / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    with pytest.raises(HycamError, match=rf"{name}.* in the cache is damaged .*delete"):
        load_task(str(rows))


def test_batches_come_back_as_one_table_that_names_its_entry(folder: Path) -> None:
    schema = pyarrow.schema([("n", pyarrow.int64())])

    def build(at: Path) -> None:
        with pyarrow.ipc.new_stream(str(at / "rows.arrow"), schema) as writer:
            for n in range(3):
                writer.write(pyarrow.record_batch([pyarrow.array([n, n + 10])], schema))

    entry = cached("numbers", {}, build)
    dataset = read_arrow(entry / "rows.arrow")
    assert dataset["n"][:] == [0, 10, 1, 11, 2, 12]
    assert entry_of(dataset) == entry_of(dataset.select([3])) == entry.name


def test_a_stream_that_was_cut_between_two_batches_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    schema = pyarrow.schema([("n", pyarrow.int32())])
    ends = []
    with (tmp_path / "rows.arrow").open("wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for number in range(3):
            writer.write(pyarrow.RecordBatch.from_pylist([{"n": number}], schema))
            ends.append(sink.tell())
    assert len(read_arrow(tmp_path / "rows.arrow")) == 3
    whole = (tmp_path / "rows.arrow").read_bytes()
    for end in (*ends, 0, len(whole) - 1):
        (tmp_path / "rows.arrow").write_bytes(whole[:end])
        with pytest.raises(HycamError, match="damaged"):
            read_arrow(tmp_path / "rows.arrow")
