"""Runs each cell as a Ray task, on an existing cluster or on one started on this machine."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from hycam.errors import HycamError
from hycam.study.cells import Cell
from hycam.study.executors import Event, Finished, Progressed, Started, lost, startable
from hycam.study.recipe import ExecutorRecipe
from hycam.study.run_cell import run_cell, settle

# Ray reads these when it is imported, or when it starts.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # silences its messages, which fill pages when a machine is lost
    "RAY_task_oom_retries": "0",  # a cell that is too large would be retried for ever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default of a later Ray, which warns of the change
}

try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise HycamError("A study on a Ray cluster needs Ray: pip install 'hycam[ray]'.") from error

_RETRIES = 3  # of a cell whose worker or machine was lost
_OWN = "local"  # as an address: a cluster started for this study
_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_SECONDS_BETWEEN_PROGRESS = 5.0


class RayExecutor:
    """Submits every cell with the resources that it needs; Ray finds a machine for it.

    The cell of a lost worker runs again, from its checkpoint if the run folder is still within reach. Run folders are
    written where the cell runs, under the same path as here; the result comes back through Ray.
    """

    def __init__(self, recipe: ExecutorRecipe) -> None:
        self._recipe = recipe

    def run(self, cells: Sequence[Cell]) -> Generator[Event, None, None]:
        _connect(self._recipe.address)
        try:
            self._check_room()
            yield from self._run(cells)
        finally:
            ray.shutdown()  # the cluster then stops what this process runs there

    def _run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        work = ray.remote(**self._options())(_work)
        threads, place = max(1, int(self._recipe.cpus)), (Path.cwd(), os.environ.get("HYCAM_DATA"))
        waiting, started = list(cells), set[str]()
        running: dict[ray.ObjectRef, Cell] = {}
        while waiting or running:
            for cell in startable(waiting, running.values()):
                waiting.remove(cell)
                running[work.remote(cell, told, threads, *place)] = cell
            ready, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            by_identity = {cell.identity: cell for cell in running.values()}
            for identity, *progress in told.get_nowait_batch(told.size()):
                if identity in by_identity:  # progress may arrive after the cell's result
                    started.add(identity)
                    cell = by_identity[identity]
                    yield Progressed(cell, *progress) if progress else Started(cell)
            for task in ready:
                cell = running.pop(task)
                if cell.identity not in started:
                    yield Started(cell)
                yield _result(cell, task)

    def _options(self) -> dict[str, Any]:
        recipe = self._recipe
        memory = {} if recipe.memory_gb is None else {"memory": int(recipe.memory_gb * 1e9)}
        # One call per process: each cell starts with fresh memory, and its peak is its own.
        return {"num_cpus": recipe.cpus, "num_gpus": recipe.gpus, **memory, "max_retries": _RETRIES, "max_calls": 1}

    def _check_room(self) -> None:
        """Refuses cells that no machine can hold; Ray itself would wait for ever."""
        recipe = self._recipe
        needed = {"CPU": recipe.cpus, "GPU": recipe.gpus, "memory": (recipe.memory_gb or 0.0) * 1e9}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(machine.get(name, 0.0) >= value for name, value in needed.items()) for machine in machines):
            there = "; ".join(_spelled(machine) for machine in machines)
            raise HycamError(
                f"A cell needs {_spelled(needed)}, which no machine of the Ray cluster has. They have: {there}. Lower "
                "executor.cpus, executor.gpus or executor.memory_gb, or add a larger machine."
            )


def _connect(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or _OWN
    try:
        _check_answers(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # Ray's own ConnectionError is an OSError
        raise HycamError(
            f"No Ray cluster can be reached at {address}: {str(error).splitlines()[0]}. `ray start --head` starts "
            "one; set its address as executor.address or RAY_ADDRESS. Without either a study starts its own cluster."
        ) from error


def _check_answers(address: str) -> None:
    """Raises OSError if nobody listens at ``host:port``; Ray itself would retry for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _result(cell: Cell, task: ray.ObjectRef) -> Finished:
    try:
        state, content = ray.get(task)
    except OutOfMemoryError:
        return lost(
            cell,
            "The machine ran out of memory, so Ray killed the cell. Set what a cell needs (executor.memory_gb, "
            "executor.cpus), so that fewer run at once on a machine.",
        )
    except RayError as error:  # not a failure of the cell itself, which would be its result
        return lost(cell, f"Ray could not finish it ({type(error).__name__}): {str(error).splitlines()[-1]}")
    return Finished(cell, state, content)


def _spelled(resources: dict[str, float]) -> str:
    memory = resources.get("memory", 0.0) / 1e9
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs and {memory:.3g} GB"


class _Teller:
    """Sends progress to the study's queue.

    It does not wait for an answer: Ray would lend the CPU of a waiting task to another one.
    """

    def __init__(self, told: Queue, identity: str) -> None:
        self._told: Any = told.actor.put_nowait
        self._identity = identity
        self._last = 0.0

    def start(self) -> None:
        self._told.remote((self._identity,))

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        if time.monotonic() - self._last > _SECONDS_BETWEEN_PROGRESS:
            self._last = time.monotonic()
            self._told.remote((self._identity, what, done, total, note))


def _work(cell: Cell, told: Queue, threads: int, folder: Path, data: str | None) -> tuple[str, dict[str, Any]]:
    settle(threads)
    teller = _Teller(told, cell.identity)
    teller.start()
    # Paths in a study are relative to the folder where it was started.
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if data is not None:
        os.environ.setdefault("HYCAM_DATA", data)
    return run_cell(cell, teller)
