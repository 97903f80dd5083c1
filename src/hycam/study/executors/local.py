"""One process a cell on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from hycam.console import quiet_libraries
from hycam.study.cells import Cell
from hycam.study.executors.events import Event, Finished, Progressed, Started
from hycam.study.recipe import ExecutorRecipe
from hycam.study.run_cell import run_cell

_GRACE_SECONDS = 10


@dataclass(frozen=True)
class _Worker:
    cell: Cell
    process: SpawnProcess
    connection: Connection


class LocalExecutor:
    """Keeps ``recipe.workers`` processes busy, each with one cell and the memory of a fresh start."""

    def __init__(self, recipe: ExecutorRecipe) -> None:
        self._workers = recipe.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = recipe.threads or max(1, cores // recipe.workers)

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        waiting = list(cells)
        running: dict[Any, _Worker] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._workers:
                    worker = self._start(waiting.pop(0))
                    running[worker.connection] = worker
                    yield Started(worker.cell)
                for ready in wait(list(running)):
                    event = _receive(running[ready])
                    yield event
                    if isinstance(event, Finished):
                        _end(running.pop(ready))
        finally:
            for worker in running.values():
                worker.process.terminate()
            for worker in running.values():
                _end(worker)

    def _start(self, cell: Cell) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(cell, theirs, self._threads), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(cell, process, ours)


def _receive(worker: _Worker) -> Event:
    try:
        kind, *rest = worker.connection.recv()
    except EOFError:
        worker.process.join(_GRACE_SECONDS)
        reason = _ended(worker.process.exitcode)
        return Finished(worker.cell, "failed", {"failure": {"reason": reason, "step": None}, "seconds": None})
    return Finished(worker.cell, *rest) if kind == "finished" else Progressed(worker.cell, *rest)


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; most often the machine is out of memory" if name == "SIGKILL" else ""
        return f"Its process was ended from outside ({name}){hint}."
    return f"Its process ended by itself with status {code}."


def _end(worker: _Worker) -> None:
    worker.process.join(_GRACE_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.connection.close()


class _Sender:
    """Progress into the pipe, in place of a console."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        self._connection.send(("progress", what, done, total, note))  # a parent that has gone ends this process too


def _work(cell: Cell, connection: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; it is the parent that ends it
    torch.set_num_threads(threads)
    quiet_libraries(informative=False)
    with suppress(BrokenPipeError):
        state, content = run_cell(cell, _Sender(connection))
        connection.send(("finished", state, content))
