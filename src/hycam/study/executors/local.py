"""Runs each cell in a process on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from hycam.machine import cores
from hycam.study.cells import Cell
from hycam.study.executors import Event, Finished, Progressed, Started, lost, startable
from hycam.study.recipe import ExecutorRecipe
from hycam.study.run_cell import run_cell, settle

_GRACE_SECONDS = 10


@dataclass(frozen=True)
class _Worker:
    cell: Cell
    process: SpawnProcess
    connection: Connection


class LocalExecutor:
    """Keeps ``recipe.workers`` processes busy; each cell gets a fresh one."""

    def __init__(self, recipe: ExecutorRecipe) -> None:
        self._workers = recipe.workers
        self.threads = recipe.threads or max(1, cores() // recipe.workers)

    def run(self, cells: Sequence[Cell]) -> Generator[Event, None, None]:
        waiting = list(cells)
        running: dict[Any, _Worker] = {}
        try:
            while waiting or running:
                possible = startable(waiting, (worker.cell for worker in running.values()))
                for cell in possible[: self._workers - len(running)]:
                    waiting.remove(cell)
                    with _interrupts_held():
                        worker = self._start(cell)
                        running[worker.connection] = worker
                    yield Started(cell)
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
        arguments = (cell, theirs, self.threads)
        process = context.Process(target=_work, args=arguments, name=cell.file_name, daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(cell, process, ours)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Defers Ctrl-C to the end of the block, and blocks it for good in a process that was started in it.

    A terminal sends it to every process of the study, but only the main one should stop the others.
    """
    resource_tracker.ensure_running()  # starting it would unblock interrupts again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(worker: _Worker) -> Event:
    try:
        kind, *rest = worker.connection.recv()
    except (EOFError, OSError):  # OSError if it died in the middle of a message
        worker.process.join(_GRACE_SECONDS)
        return lost(worker.cell, _ended(worker.process.exitcode))
    return Finished(worker.cell, *rest) if kind == "finished" else Progressed(worker.cell, *rest)


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; most likely the machine ran out of memory" if name == "SIGKILL" else ""
        return f"Its process was killed ({name}){hint}."
    return f"Its process exited with status {code}."


def _end(worker: _Worker) -> None:
    worker.process.join(_GRACE_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.connection.close()


class _Sender:
    """Sends progress through the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        self._connection.send(("progress", what, done, total, note))


def _work(cell: Cell, connection: Connection, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settle(threads)
    with suppress(BrokenPipeError):  # the parent is gone
        state, content = run_cell(cell, _Sender(connection))
        connection.send(("finished", state, content))


def _end_with_parent() -> None:
    """Ends this process when the one that runs the study ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
