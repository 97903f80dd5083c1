"""A study while it runs, as its own process and others see it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hycam.lock import alone
from hycam.study import display as display_module
from hycam.study.display import Display
from hycam.study.executors import Finished, Progressed, Started
from hycam.study.plan import Plan
from hycam.study.status import running
from study.factory import plan_of, result_of, study_of

NLL = {"dolly": 1.5}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """LoRA is done on fold 0, HyCAM diverged there; fold 1 is to go."""
    states = {"LoRA": NLL, "HyCAM": "diverged"}
    return plan_of(
        study_of(("LoRA", "HyCAM"), ("dolly",), [0, 1], output=str(tmp_path)),
        lambda cell: states[cell.method] if cell.fold == 0 else None,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.fixture
def display(plan: Plan) -> Display:
    made = Display(at_once=1)
    made.begin(plan)
    return made


def finished(cell) -> Finished:
    return Finished(cell, "done", result_of(cell, NLL).content)


def test_lines_tell_of_each_cell_and_of_the_time_that_is_left(plan: Plan, clock, capsys) -> None:
    lora, hycam = plan.cells[2:]
    with Display(at_once=2) as display:
        display.begin(plan)
        for cell in (lora, hycam):
            display.tell(Started(cell))
        display.tell(Progressed(lora, "training", 1, 9))  # too soon after the last line
        clock(61)
        display.tell(Progressed(hycam, "validation", 2, 9))
        clock(9)
        display.tell(finished(lora))
        display.tell(Finished(hycam, "failed", {"failure": {"reason": "no luck", "step": None}}))
    assert capsys.readouterr().err.splitlines() == [
        "All cells: SmolLM2 135M, seed 2333",
        "4 cells: 1 done, 1 diverged, 2 to go, about 0:01:40",  # 100 seconds each, two at once
        "LoRA, fold 1: started",
        "HyCAM, fold 1: started",
        "LoRA, fold 1: training 1/9",
        "HyCAM, fold 1: validation 2/9",
        "LoRA, fold 1: done in 0:01:10, perplexity 4.4817",
        "4 cells: 2 done, 1 diverged, 1 to go, about 0:00:15",  # 30 seconds of the running one are left
        "HyCAM, fold 1: failed in 0:01:10, no luck",
        "4 cells: 2 done, 1 diverged, 1 failed, 0 to go",
    ]


def test_a_cell_that_begins_again_is_timed_anew(plan: Plan, display: Display, clock, capsys) -> None:
    cell = plan.cells[2]
    display.tell(Started(cell))
    clock(100)
    display.tell(Started(cell))
    clock(5)
    display.tell(finished(cell))
    assert "LoRA, fold 1: done in 0:00:05" in capsys.readouterr().err


def test_preparing_the_data_is_told_now_and_then(clock, capsys) -> None:
    display = Display(at_once=1)
    for number in range(5):
        display.update("tokenising dolly", number, 4)
        clock(31)
    assert capsys.readouterr().err.splitlines() == [
        "tokenising dolly 0/4",
        "tokenising dolly 2/4",
        "tokenising dolly 4/4",
    ]


def test_a_terminal_has_a_table_of_what_runs_below_what_is_done(plan: Plan, monkeypatch) -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=20)
    monkeypatch.setattr(display_module, "plain_console", lambda **_: console)
    with Display(at_once=2) as display:
        display.update("tokenising dolly", 1, 4)
        assert _drawn(display) == ["tokenising dolly 1/4"]
        display.begin(plan)
        display.tell(Started(plan.cells[2]))
        display.tell(Progressed(plan.cells[2], "training", 3, 9, "loss 2.000"))
        assert _drawn(display) == [
            "running       for      doing",
            "LoRA, fold 1  0:00:00  training 3/9, loss 2.000",
            "4 cells: 1 done, 1 diverged, 2 to go, about 0:01:40",
        ]
        display.tell(finished(plan.cells[2]))
        assert _drawn(display) == ["4 cells: 2 done, 1 diverged, 1 to go, about 0:00:50"]
    assert "LoRA, fold 1: done in 0:00:00, perplexity 4.4817" in out.getvalue()


def _drawn(display: Display) -> list[str]:
    """The lines of the table, as they are drawn next."""
    out = StringIO()
    Console(file=out, width=80).print(display._table())
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_what_runs_is_seen_while_the_folder_is_held_and_not_after(tmp_path: Path, plan: Plan, display) -> None:
    first, second = plan.cells[2:]
    with alone(tmp_path, "runs the study in"):
        assert running(tmp_path) == {}
        display.tell(Started(first))
        display.tell(Started(second))
        display.tell(finished(second))
        seen = running(tmp_path)
        assert set(seen) == {first.identity}
        assert seen[first.identity].what == "starts"
        assert 0 <= seen[first.identity].seconds < 60
    assert (tmp_path / ".running.json").exists()  # as a process that was killed leaves it
    assert running(tmp_path) == {}
    display.end()
    assert not (tmp_path / ".running.json").exists()


def test_progress_is_written_every_few_seconds(tmp_path: Path, plan: Plan, display, clock) -> None:
    with alone(tmp_path, "runs the study in"):
        display.tell(Started(plan.cells[2]))
        for seconds, step in ((1, 1), (1, 2), (7, 3)):
            clock(seconds)
            display.tell(Progressed(plan.cells[2], "training", step, 5, "loss 2.000"))
            shown = running(tmp_path)[plan.cells[2].identity].what
            assert shown == ("starts" if step < 3 else "training 3/5, loss 2.000")


def test_a_full_disk_is_left_to_the_results_to_say(plan: Plan, display, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    display.tell(Started(plan.cells[2]))


def test_nothing_runs_where_there_is_no_study(tmp_path: Path) -> None:
    assert running(tmp_path / "nowhere") == {}
