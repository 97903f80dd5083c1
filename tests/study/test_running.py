"""Who runs a study, and what it is at."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hycam.errors import HycamError
from hycam.lock import alone
from hycam.study.cells import Cell
from hycam.study.executors.events import Finished, Progressed, Started
from hycam.study.running import Board, running
from study.factory import plan_of, study_of

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1] + "/.lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cells() -> list[Cell]:
    return plan_of(study_of(("LoRA", "HyCAM"), ("dolly",), [0]), lambda _: None).cells


def done(cell: Cell) -> Finished:
    return Finished(cell, "done", {})


def test_what_runs_is_seen_while_the_folder_is_held_and_not_after(tmp_path: Path, cells: list[Cell]) -> None:
    first, second = cells
    board = Board(tmp_path)
    with alone(tmp_path, "runs the study in"):
        assert running(tmp_path) == {}
        board.tell(Started(first))
        board.tell(Started(second))
        board.tell(done(second))
        seen = running(tmp_path)
        assert set(seen) == {first.identity}
        assert seen[first.identity].what == "starts"
        assert 0 <= seen[first.identity].seconds < 60
    assert (tmp_path / ".running.json").exists()  # as a process that was killed leaves it
    assert running(tmp_path) == {}
    board.clear()
    assert not (tmp_path / ".running.json").exists()


def test_progress_is_written_every_few_seconds(tmp_path: Path, cells: list[Cell], monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hycam.study.running.time.monotonic", lambda: now[0])
    board = Board(tmp_path)
    with alone(tmp_path, "runs the study in"):
        board.tell(Started(cells[0]))
        for seconds, step in ((1, 1), (2, 2), (9, 3)):
            now[0] = 100.0 + seconds
            board.tell(Progressed(cells[0], "training", step, 5, "loss 2.000"))
            shown = running(tmp_path)[cells[0].identity].what
            assert shown == ("starts" if seconds < 5 else "training 3/5, loss 2.000")
        assert board.doing[cells[0].identity].what == "training 3/5, loss 2.000"


def test_a_full_disk_is_left_to_the_results_to_say(tmp_path: Path, cells: list[Cell], monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    Board(tmp_path).tell(Started(cells[0]))


def test_a_second_process_is_refused_until_the_first_has_gone_however_it_went(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(HycamError, match=r"Another process .*runs the study in"),
            alone(tmp_path, "runs the study in"),
        ):
            pytest.fail("two at once")
    finally:
        holder.kill()
        holder.wait()
    with alone(tmp_path, "runs the study in"):
        pass


def test_nothing_runs_where_there_is_no_study(tmp_path: Path) -> None:
    assert running(tmp_path / "nowhere") == {}
