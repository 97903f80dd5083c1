"""Processes of this machine that run cells."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import replace

import pytest

from hycam.study.cells import Cell
from hycam.study.executors import Finished, Progressed, Started, startable
from hycam.study.executors.local import LocalExecutor
from hycam.study.grid import Planner
from hycam.study.recipe import ExecutorRecipe
from hycam.training.recipe import TrainingRecipe
from study.factory import plan_of, study_of
from study.tiny import LORA, TRAINING


def children() -> dict[str, multiprocessing.Process]:
    return {child.name: child for child in multiprocessing.active_children()}


def test_a_killed_process_is_a_failed_cell_the_others_go_on_and_none_outlives_the_study(tiny_study) -> None:
    long = replace(TRAINING, max_steps=100_000)
    killed, unfinished = Planner(tiny_study(methods=LORA, folds=[0, 1], training=long)).cells()
    (short,) = Planner(tiny_study(methods=LORA)).cells()
    events = LocalExecutor(ExecutorRecipe(workers=2, threads=1)).run([killed, short, unfinished])
    ended: dict[str, Finished] = {}
    started: list[Cell] = []
    most = 0
    for event in events:
        most = max(most, len(children()))
        if isinstance(event, Started):
            started.append(event.cell)
        elif isinstance(event, Finished):
            ended[event.cell.identity] = event
        elif event.cell is killed and event.what == "training" and killed.identity not in ended:
            os.kill(children()[killed.file_name].pid, signal.SIGKILL)
        if len(ended) == 2 and len(started) == 3:
            break
    assert [cell.identity for cell in started] == [killed.identity, short.identity, unfinished.identity]
    assert most == 2
    assert ended[killed.identity].state == "failed"
    assert ended[killed.identity].content["failure"] == {
        "reason": "Its process was killed (SIGKILL); most likely the machine ran out of memory.",
        "step": None,
    }
    assert ended[short.identity].state == "done"
    assert ended[short.identity].content["training"]["data"] == short.data.fingerprint
    assert unfinished.file_name in children()
    events.close()
    assert not children()


@pytest.mark.soak
def test_a_cell_tells_its_progress_and_its_result_and_hears_no_interrupt(tiny_study) -> None:
    (cell,) = Planner(tiny_study(methods=LORA)).cells()

    def interrupt() -> None:
        while not is_over.wait(0.1):
            for child in children().values():
                os.kill(child.pid, signal.SIGINT)  # as a terminal sends it, from the very beginning

    is_over = threading.Event()
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        first, *between, last = LocalExecutor(ExecutorRecipe(threads=1)).run([cell])
    finally:
        is_over.set()
        interrupting.join()
    assert isinstance(first, Started) and isinstance(last, Finished)
    assert all(isinstance(event, Progressed) for event in between)
    assert last.state == "done"
    assert [event.text for event in between if event.what == "training"][-1].startswith("training 2/2, loss ")
    assert last.content["environment"]["cores"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("given", "workers", "threads"), [(None, 1, 8), (None, 3, 2), (None, 99, 1), (5, 3, 5)])
def test_the_cores_are_divided_among_the_workers(monkeypatch, given: int | None, workers: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert LocalExecutor(ExecutorRecipe(workers=workers, threads=given)).threads == threads


def test_cells_of_one_run_folder_follow_one_another() -> None:
    study = study_of(("LoRA", "HyCAM"), ("dolly",), [0], vary={"evaluation.max_new_tokens": [8, 16]},
                     training=TrainingRecipe())  # fmt: skip
    lora_8, hycam_8, lora_16, hycam_16 = cells = plan_of(study, lambda _: None).cells
    assert startable(cells, []) == [lora_8, hycam_8]
    assert startable([lora_16, hycam_16], [lora_8]) == [hycam_16]
    assert startable([lora_16], [lora_8, hycam_8]) == []
    assert startable([lora_16], []) == [lora_16]
