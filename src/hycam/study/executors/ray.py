"""One Ray task a cell, on an existing cluster or on one that is started on this machine."""

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
from hycam.study.executors.events import Event, Finished, Progressed, Started, lost, startable
from hycam.study.recipe import ExecutorRecipe
from hycam.study.run_cell import run_cell, settle

# Ray reads these when it is imported, or when it starts.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # its own messages, pages of them where a machine is lost: no line of them
    "RAY_task_oom_retries": "0",  # a cell that is too large would be tried for ever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by itself in a later version, and warns of
}

try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise HycamError("A study on a Ray cluster needs Ray: pip install 'hycam[ray]'.") from error

_RETRIES = 3  # of a cell whose worker or machine was lost
_OWN = "local"  # as an address: a cluster that is started for this study
_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_SECONDS_BETWEEN_PROGRESS = 5.0


class RayExecutor:
    """Gives every cell to the cluster with the resources that it needs; Ray finds a machine for it.

    A lost worker's cell is run again, from its checkpoint where the run folder is still within reach. Run folders are
    written where the cell runs, under the path that they have here; the result comes back through Ray.
    """

    def __init__(self, recipe: ExecutorRecipe) -> None:
        self._recipe = recipe

    def run(self, cells: Sequence[Cell]) -> Generator[Event, None, None]:
        _connect(self._recipe.address)
        try:
            self._check_room()
            yield from self._run(cells)
        finally:
            ray.shutdown()  # the cluster ends what this process has running there

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
                if identity in by_identity:  # the last words of a cell may come after its result
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
        # One call a process: each cell has the memory of a fresh start, and its peak is its own.
        return {"num_cpus": recipe.cpus, "num_gpus": recipe.gpus, **memory, "max_retries": _RETRIES, "max_calls": 1}

    def _check_room(self) -> None:
        """Ray itself would wait for ever for a machine that is large enough."""
        recipe = self._recipe
        needed = {"CPU": recipe.cpus, "GPU": recipe.gpus, "memory": (recipe.memory_gb or 0.0) * 1e9}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(machine.get(name, 0.0) >= value for name, value in needed.items()) for machine in machines):
            there = "; ".join(_spelled(machine) for machine in machines)
            raise HycamError(
                f"A cell needs {_spelled(needed)}, which no machine of the Ray cluster has. They have: {there}. Lower "
                "executor.cpus, executor.gpus or executor.memory_gb, or add such a machine."
            )


def _connect(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or _OWN
    try:
        _check_answers(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # Ray's own ConnectionError is an OSError
        raise HycamError(
            f"There is no Ray cluster to be had at {address}: {str(error).splitlines()[0]}. `ray start --head` starts "
            "one; executor.address or RAY_ADDRESS has its address, and without either a study starts its own."
        ) from error


def _check_answers(address: str) -> None:
    """Raises OSError where nobody listens at ``host:port``: Ray itself would go on asking for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _result(cell: Cell, task: ray.ObjectRef) -> Finished:
    try:
        state, content = ray.get(task)
    except OutOfMemoryError:
        return lost(
            cell,
            "The machine was out of memory, so Ray ended the cell. Say what a cell needs (executor.memory_gb, "
            "executor.cpus), so that fewer run at once on a machine.",
        )
    except RayError as error:  # not a failure of the cell itself, which would be its result
        return lost(cell, f"Ray could not bring it to an end ({type(error).__name__}): {str(error).splitlines()[-1]}")
    return Finished(cell, state, content)


def _spelled(resources: dict[str, float]) -> str:
    memory = resources.get("memory", 0.0) / 1e9
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs and {memory:.3g} GB"


class _Teller:
    """Tells the study's queue, in place of a console.

    It does not wait for an answer: Ray takes a task that waits for one that has no need of its CPU, and starts another.
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
    # Paths in a study are relative to where it was started.
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if data is not None:
        os.environ.setdefault("HYCAM_DATA", data)
    return run_cell(cell, teller)
