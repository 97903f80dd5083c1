"""Cells as tasks of a real Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hycam.errors import HycamError
from hycam.study.executors import Event, Finished, Progressed, Started
from hycam.study.grid import Planner
from hycam.study.recipe import ExecutorRecipe
from hycam.study.runner import run_study
from hycam.training.run import Run
from study.tiny import LORA, TRAINING, Watch

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

from hycam.study.executors.ray import RayExecutor, _result, ray

# A node that says nothing for a second is taken for lost; the default would be half a minute.
IMPATIENT = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(autouse=True)
def _no_cluster_before_or_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()


@pytest.mark.soak
def test_a_cell_runs_on_a_cluster_that_is_started_for_it(tiny_study, capfd) -> None:
    study = tiny_study(methods=LORA, executor=ExecutorRecipe("ray"))
    watch = Watch()
    done = run_study(study, watch)
    (result,) = done.results.done
    assert result.content["training"]["data"] == done.cells[0].data.fingerprint
    assert [type(event) for event in watch.events if not isinstance(event, Progressed)] == [Started, Finished]
    assert (Path(done.cells[0].recipe.output) / "adapter").exists()
    assert not ray.is_initialized()
    assert capfd.readouterr().err == ""  # Ray says nothing of its own
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that runs nothing, and two workers with a CPU each."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": IMPATIENT})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        started.wait_for_nodes()
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.mark.soak
def test_the_cell_of_a_worker_that_is_lost_begins_again_from_its_checkpoint(tiny_study, cluster: Any, capfd) -> None:
    training = replace(TRAINING, max_steps=800, save_every=10)
    cells = Planner(tiny_study(methods=LORA, folds=[0, 1], training=training)).cells()
    runs = [Run(Path(cell.recipe.output)) for cell in cells]
    victim = cluster.list_all_nodes()[-1]
    kept: list[list[str]] = []

    def end_a_worker() -> None:
        while not all(run.last_checkpoint() for run in runs):
            time.sleep(0.02)
        kept.extend(run.metrics.read_text().splitlines()[:10] for run in runs)
        assert not any(run.summary() for run in runs), "a cell was finished before the worker was ended"
        cluster.remove_node(victim, allow_graceful=False)

    ender = threading.Thread(target=end_a_worker, daemon=True)
    ender.start()
    events: list[Event] = list(RayExecutor(ExecutorRecipe("ray", address=cluster.address)).run(cells))
    ender.join()
    assert len(cluster.list_all_nodes()) == 2
    starts = {cell.identity: sum(isinstance(e, Started) and e.cell is cell for e in events) for cell in cells}
    assert sorted(starts.values()) == [1, 2]
    ended = {event.cell.identity: event for event in events if isinstance(event, Finished)}
    assert {event.state for event in ended.values()} == {"done"}
    for run, lines in zip(runs, kept, strict=True):
        assert run.metrics.read_text().splitlines()[:10] == lines  # nothing before the checkpoint was trained again
    said = capfd.readouterr()
    assert "raylet" not in said.out + said.err  # whose last words fill pages


def test_a_cell_that_no_machine_can_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "memory": 16e9}},
        {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0, "memory": 512e9}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    RayExecutor(ExecutorRecipe("ray", cpus=8, memory_gb=16))._check_room()
    with pytest.raises(
        HycamError, match=r"needs 1 CPUs, 0.5 GPUs and 0 GB, which no machine.*8 CPUs, 0 GPUs and 16 GB"
    ):
        RayExecutor(ExecutorRecipe("ray", gpus=0.5))._check_room()
    with pytest.raises(HycamError, match=r"needs 1 CPUs, 0 GPUs and 17 GB.*executor.memory_gb"):
        RayExecutor(ExecutorRecipe("ray", memory_gb=17))._check_room()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ray.exceptions.WorkerCrashedError(),
            "Ray could not finish it (WorkerCrashedError): The worker died unexpectedly",
        ),
        (ray.exceptions.OutOfMemoryError("1 worker(s) were killed"), "The machine ran out of memory"),
    ],
)
def test_a_cell_that_ray_gives_up_is_a_failed_one(tiny_study, monkeypatch, error: Exception, said: str) -> None:
    (cell,) = Planner(tiny_study(methods=LORA)).cells()

    def get(_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    event = _result(cell, object())
    assert event.state == "failed"
    assert event.content["failure"]["reason"].startswith(said)


def test_a_cluster_that_is_not_there_is_said(tiny_study) -> None:
    with pytest.raises(HycamError, match=r"No Ray cluster can be reached at 127.0.0.1:1: .*refused.*RAY_ADDRESS"):
        list(RayExecutor(ExecutorRecipe("ray", address="127.0.0.1:1")).run([]))
