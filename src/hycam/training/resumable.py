"""``transformers.Trainer`` that continues to the bit from a checkpoint, and writes and believes only whole ones."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from hycam import processes
from hycam.errors import HycamError, Interrupted
from hycam.training.checkpoints import Checkpoints, damage
from hycam.training.state_files import refused
from hycam.training.stopping import Stop

PROGRESS = "progress.json"
"""In a checkpoint: what the Trainer forgets."""


class ResumableTrainer(Trainer):
    """What the Trainer leaves open between a process that ends and the one that continues.

    The Trainer restores the weights, the optimizer, the schedule, the random numbers and its callbacks. Here a
    checkpoint also holds what was counted since the last log, the last validation, the seconds so far, and whether
    training had come to its end (the Trainer would do one step more) or a validation was still to come. It counts once
    its manifest is written, checkpoints go in the order of their steps and not of the clock, and the log of the whole
    run, which would be written again with each of them, is left to ``metrics.jsonl``.

    A subclass adds to :meth:`progress` and :meth:`restore`, and asks ``stop.check`` while it validates.

    Args:
        checkpoints: where they are kept.
        stop: whether the process was asked to end; training is left after the step, with a checkpoint.
        settings: of the Trainer.
    """

    def __init__(self, *, checkpoints: Checkpoints, stop: Stop, **settings: Any) -> None:
        self.checkpoints = checkpoints
        self.stop = stop
        self.last_validation: dict[str, float] = {}
        self.validated_at = -1
        self.logged = 0
        self._began = time.monotonic()
        self._resumed: str | None = None
        self._since_log: dict[str, Any] = {}
        self._is_finished = False
        self._is_validation_due = False
        super().__init__(**settings)

    def elapsed(self) -> float:
        """Seconds of training so far; the steps that a later process repeats count once."""
        return time.monotonic() - self._began

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside the Trainer's own, for JSON."""
        return {
            "elapsed": self.elapsed(),
            "logged": self.logged,
            "is_finished": self.control.should_training_stop,
            "is_validation_due": self._is_validation_due,
            "last_validation": self.last_validation,
            "validated_at": self.validated_at,
            "since_log": {"loss": self._tr_loss.item(), "step": self._globalstep_last_logged},
        }

    def restore(self, progress: dict[str, Any]) -> None:
        """Takes what :meth:`progress` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError: it is something else.
        """
        self._began = time.monotonic() - progress["elapsed"]
        self.logged = int(progress["logged"])
        self._is_finished = bool(progress["is_finished"])
        self._is_validation_due = bool(progress["is_validation_due"])
        self.last_validation = {name: float(loss) for name, loss in progress["last_validation"].items()}
        self.validated_at = int(progress["validated_at"])
        kept = progress["since_log"]
        self._since_log = {"loss": float(kept["loss"]), "step": int(kept["step"])}

    def leave(self) -> None:
        """Ends training where it stands, with a checkpoint, if the process was asked to end.

        Raises:
            Interrupted: it was.
        """
        self.stop.agree(self.args.device)
        if self.stop.number is None:
            return
        step = self.state.global_step
        if step not in self.checkpoints.steps():
            self._save_checkpoint(self.model, None)
        self.stop.check(f"The same command continues from step {step}.")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, without speeds by a clock that may jump, and without a history that grows."""
        super().log(logs)
        self.logged += 1
        self.state.log_history.clear()

    def _init_training_state(
        self, max_steps: int, steps_an_epoch: int, epochs: int, resumed: str | None, trial: Any
    ) -> tuple[int, int]:
        found = super()._init_training_state(max_steps, steps_an_epoch, epochs, resumed, trial)
        self._began = time.monotonic()
        self._resumed = resumed
        if resumed is not None:
            self.state.compute_steps(self.args, max_steps)  # how often to log and save may have changed
            self._note_best()  # the folder may have been moved
            self._restore_from(Path(resumed) / _progress_file())
        return found

    def _restore_from(self, path: Path) -> None:
        try:
            self.restore(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise refused(path, f"it does not say how far training had come: {error!r}") from error

    def _run_epoch(self, *values: Any, **named: Any) -> None:
        self._catch_up()
        if self._is_finished:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*values, **named)

    def _finalize_training(self, *values: Any, **named: Any) -> Any:
        self._catch_up()  # where no epoch was left
        return super()._finalize_training(*values, **named)

    def _catch_up(self) -> None:
        """Once, when a resumed training is about to go on: what the Trainer has reset meanwhile, and what was left out.

        The random numbers too, which the Trainer restores with the first step: there may be none.
        """
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        self._load_rng_state(resumed)
        self._tr_loss.fill_(self._since_log["loss"])
        self._globalstep_last_logged = self._since_log["step"]
        if self._is_validation_due:
            metrics = self._evaluate(None, None)
            self._determine_best_metric(metrics, None)
            self._note_best()
            self._is_validation_due = False
            self._is_finished |= self.control.should_training_stop

    def _note_best(self) -> None:
        best = self.state.best_global_step
        if best is not None:
            there = self.checkpoints.at(best)
            self.state.best_model_checkpoint = str(there) if there.exists() else None

    def _maybe_log_save_evaluate(self, *values: Any, **named: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*values, **named)
        except Interrupted:
            self._is_validation_due = True
        self.leave()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        if step in self.checkpoints.steps():  # it continues from there
            return
        try:
            super()._save_checkpoint(model, trial)  # which deletes none: save_total_limit is null
            text = json.dumps(self.progress(), indent=1)
            (self.checkpoints.at(step) / _progress_file()).write_text(text + "\n", encoding="utf-8")
            processes.barrier()  # each process has written its part
            if self.args.should_save:
                self.checkpoints.seal(step)
            processes.barrier()  # so that all see the same checkpoints, whenever they look
        except Exception:
            if self.args.should_save:  # on a full disk, half a checkpoint is in the way
                shutil.rmtree(self.checkpoints.at(step), ignore_errors=True)
            raise
        if self.args.should_save:
            self.checkpoints.rotate()

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        if wrong := damage(best):
            raise HycamError(
                f"{best}, the best checkpoint, which the run was to end with, is not whole: {wrong}. The same command "
                "trains again from the last checkpoint that does not need it."
            )
        super()._load_best_model()


def _progress_file() -> str:
    """Each process has its own, since each has sums of its own."""
    return f"progress_{processes.rank()}.json" if processes.rank() else PROGRESS


@contextmanager
def same_randomness() -> Iterator[None]:
    """Puts all random numbers back to where they stood before: what happens in between changes none after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
