"""Who runs a study, and what it is at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hycam.lock import alone
from hycam.study.cells import Cell
from hycam.study.display import Display
from hycam.study.executors import Finished, Progressed, Started
from hycam.study.plan import Plan
from hycam.study.status import running
from study.factory import plan_of, study_of


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(study_of(("LoRA", "HyCAM"), ("dolly",), [0], output=str(tmp_path)), lambda _: None)


@pytest.fixture
def display(plan: Plan) -> Display:
    made = Display(at_once=1)
    made.begin(plan)
    return made


def failed(cell: Cell) -> Finished:
    return Finished(cell, "failed", {"failure": {"reason": "no luck", "step": None}})


def test_what_runs_is_seen_while_the_folder_is_held_and_not_after(tmp_path: Path, plan: Plan, display) -> None:
    first, second = plan.cells
    with alone(tmp_path, "runs the study in"):
        assert running(tmp_path) == {}
        display.tell(Started(first))
        display.tell(Started(second))
        display.tell(failed(second))
        seen = running(tmp_path)
        assert set(seen) == {first.identity}
        assert seen[first.identity].what == "starts"
        assert 0 <= seen[first.identity].seconds < 60
    assert (tmp_path / ".running.json").exists()  # as a process that was killed leaves it
    assert running(tmp_path) == {}
    display.end()
    assert not (tmp_path / ".running.json").exists()


def test_progress_is_written_every_few_seconds(tmp_path: Path, plan: Plan, display, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hycam.study.display.time.monotonic", lambda: now[0])
    with alone(tmp_path, "runs the study in"):
        display.tell(Started(plan.cells[0]))
        for seconds, step in ((1, 1), (2, 2), (9, 3)):
            now[0] = 100.0 + seconds
            display.tell(Progressed(plan.cells[0], "training", step, 5, "loss 2.000"))
            shown = running(tmp_path)[plan.cells[0].identity].what
            assert shown == ("starts" if seconds < 5 else "training 3/5, loss 2.000")


def test_a_full_disk_is_left_to_the_results_to_say(plan: Plan, display, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    display.tell(Started(plan.cells[0]))


def test_nothing_runs_where_there_is_no_study(tmp_path: Path) -> None:
    assert running(tmp_path / "nowhere") == {}
