"""``hycam train`` in child processes that are forked, so that they import nothing, and killed at chosen moments."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from hycam.cli.main import main
from hycam.training.loop import Loop
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.stopping import Stop

_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate")
_TIMES = ("elapsed", "seconds", "peak_memory_bytes", "train_runtime")


class Child:
    """A forked process with an output of its own.

    Args:
        action: what it does; the exit status is what it returns.
        log: takes its standard output and standard error.
    """

    def __init__(self, action: Callable[[], int], log: Path) -> None:
        self.log = log
        sys.stdout.flush()
        sys.stderr.flush()
        self.number = os.fork()
        if self.number == 0:
            status = 70
            gc.freeze()  # what the parent has is not to be looked through again
            try:
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
                logging.getLogger().handlers.clear()  # pytest's
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                status = action()
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def is_alive(self) -> bool:
        """Asked while nobody has waited for it."""
        return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, seconds: float = 120) -> int:
        """The exit status; below zero, the signal that ended it."""
        end = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])

    def said(self) -> str:
        return self.log.read_text()


class Moments:
    """Calls ``at`` with every moment of this process that counts: its number, and what happens next.

    Moments are what Python's audit hooks tell of files in one folder, every sync to the disk, every micro-batch, every
    optimizer step and every batch of validation.
    """

    def __init__(self, folder: Path, at: Callable[[int, str], None]) -> None:
        self.count = 0
        self._at = at
        self._folder = f"{folder}{os.sep}"

    def __call__(self, what: str) -> None:
        self.count += 1
        self._at(self.count, what)

    def watch(self) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _FILE_EVENTS and str(arguments[0]).startswith(self._folder):
                self(f"{event} {Path(str(arguments[0])).name}")

        sys.addaudithook(hook)
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            if (path := str(Path(f"/proc/self/fd/{descriptor}").readlink())).startswith(
                self._folder
            ):  # and not of the cache
                self(f"fsync {Path(path).name}")
            sync(descriptor)

        os.fsync = fsync
        for owner, name in ((Loop, "loss_of"), (torch.optim.AdamW, "step")):
            setattr(owner, name, self._before(getattr(owner, name), name))
        Stop.check = self._before(Stop.check, "validation")

    def _before(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def told(*values: Any, **named: Any) -> Any:
            self(name)
            return function(*values, **named)

        return told


def written(recipe: Recipe, path: Path) -> Path:
    """The recipe as a file."""
    path.write_text(yaml.safe_dump(asdict(recipe), sort_keys=False))
    return path


def trained(recipe: Recipe, at: Callable[[int, str], None] | None = None, prepare: Callable[[], None] | None = None):
    """A child that runs ``hycam train`` with this recipe."""
    folder = Path(recipe.output)
    file = written(recipe, folder.parent / f"{folder.name}.yaml")

    def action() -> int:
        if prepare is not None:
            prepare()
        if at is not None:
            Moments(folder, at).watch()
        return main(["train", str(file)])

    return Child(action, folder.parent / f"{folder.name}.log")


def killed_at(moment: int) -> Callable[[int, str], None]:
    """Ends the process there, with what it was about to do as its last words."""

    def at(number: int, what: str) -> None:
        if number == moment:
            os.write(2, f"\nkilled before {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def signalled_at(moments: dict[int | str, signal.Signals]) -> Callable[[int, str], None]:
    """Sends this process signals, each at a moment: its number, or what happens then, some time after the first."""
    first = min(moment for moment in moments if isinstance(moment, int))

    def at(number: int, what: str) -> None:
        if sent := moments.get(number) or (number > first and moments.get(what)):
            os.write(2, f"\n{sent.name} before {what}\n".encode())
            os.kill(os.getpid(), sent)

    return at


def cut_at(size: int) -> None:
    """Has the system end this process in the middle of a write, where a file would grow beyond ``size`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_from(step: int, size: int) -> None:
    """From the end of this step on no file of this process may grow beyond ``size`` bytes, as on a full disk."""
    after_step(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)), step)


def after_step(do: Callable[[], object], step: int | None = None) -> None:
    """In a child: does something at the end of a step, or of the first one that this process does."""
    step_ended = Loop.step_ended
    done = []

    def then(self: Loop) -> None:
        step_ended(self)
        if not done and step in (None, self.progress.step):
            done.append(do())

    Loop.step_ended = then  # type: ignore[method-assign]


def elsewhere(recipe: Recipe, name: str) -> Recipe:
    """The same training in another folder."""
    return replace(recipe, output=str(Path(recipe.output).with_name(name)))


def moments_of(recipe: Recipe) -> list[str]:
    """Every moment of an uninterrupted run, in order."""
    seen = Path(f"{recipe.output}.moments")
    seen.write_text("")

    def at(number: int, what: str) -> None:
        with seen.open("a") as file:
            file.write(f"{what}\n")

    child = trained(recipe, at)
    assert child.wait() == 0, child.said()
    return seen.read_text().splitlines()


def result(recipe: Recipe) -> dict[str, Any]:
    """All that a run ended with, but for times and memory."""
    run = Run(Path(recipe.output))
    saved = run.adapter if run.adapter.exists() else run.model
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = {
        "weights": {path.name: path.read_bytes() for path in saved.glob("*.safetensors")},
        "summary": _timeless(run.summary() or {}),
        # The closing line is of the last process alone.
        "metrics": [_timeless(line) for line in lines if "train_loss" not in line],
        "closed": sum("train_loss" in line for line in lines),
    }
    if last := run.last_checkpoint():
        found["state"] = _state(Path(last))
    return found


def _state(checkpoint: Path) -> dict[str, Any]:
    """What the last checkpoint holds of the optimizer, the schedule and the random numbers, comparable by ``==``."""
    found: dict[str, Any] = {"weights": {}}
    for path in checkpoint.glob("*.safetensors"):
        found["weights"] |= {name: value.tolist() for name, value in load_file(path).items()}
    for name in ("optimizer.pt", "scheduler.pt"):
        found[name] = _plain(torch.load(checkpoint / name, weights_only=True))
    found["random"] = (checkpoint / "rng_state_0.pth").read_bytes()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _TIMES}
