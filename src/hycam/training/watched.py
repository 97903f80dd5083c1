"""``transformers.Trainer`` that looks at every step before it is taken."""

from __future__ import annotations

import logging
import math
from itertools import chain
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from hycam.errors import Diverged, HycamError
from hycam.training.distributed import own_part
from hycam.training.divergence import IN_A_ROW, Policy, StepWatch
from hycam.training.resumable import ResumableTrainer
from hycam.training.rows import MixedRows

_log = logging.getLogger(__name__)


class WatchedTrainer(ResumableTrainer):
    """Takes no step that would do harm (see :mod:`hycam.training.divergence`), and saves no weights that did.

    A step that is left out leaves the weights, the optimizer and the schedule as they were; the order of the rows and
    the random numbers go on. With gradient accumulation a step is all its micro-batches, on several processes those of
    all of them, and every process does the same.

    Args:
        policy: what to do about such a step.
        settings: of :class:`ResumableTrainer`; the training rows are :class:`MixedRows`, and every batch has their
            numbers in ``row``.

    Raises:
        HycamError: steps are to be left out under DeepSpeed, which takes them before they can be looked at.
        Diverged: from ``train``, ``check_weights`` and wherever a checkpoint is saved.
    """

    def __init__(self, policy: Policy, **settings: Any) -> None:
        self.policy = policy
        self._step_losses: list[Tensor] = []  # of the step's micro-batches, each its share of the step's loss
        self._step_rows: list[Tensor] = []  # and the numbers of their rows
        self._loss_before: Tensor | None = None  # the trainer's own sum of losses, before the step
        self._steps_since_log = {"taken": 0, "skipped": 0}
        super().__init__(**settings)
        self.add_callback(StepWatch())
        if policy.skips and self.is_deepspeed_enabled:
            raise HycamError(
                "training.on_divergence=skip does not go with DeepSpeed, which takes a step before its gradient can be "
                "looked at. Leave it at stop, or train with DDP or FSDP."
            )

    @property
    def watch(self) -> StepWatch:
        """What is known of the steps so far; resuming puts another in its place."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, StepWatch))

    def step_taken(self) -> None:
        """Called when a step was found sound, before the optimizer takes it."""

    def step_left_out(self, rows: list[int]) -> None:
        """Called with the numbers of this process's rows of a step that is left out."""

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if not self._step_losses:
            self._loss_before = self._tr_loss.clone()
        inputs = dict(inputs)
        self._step_rows.append(inputs.pop("row"))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_losses.append(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        # The trainer asks for the norm once in a step, when all gradients are there and the optimizer has not begun.
        norm = super()._get_grad_norm(model, grad_norm)
        self._judge(model, norm.full_tensor() if isinstance(norm, DTensor) else norm)
        return norm

    def _judge(self, model: torch.nn.Module, norm: Any) -> None:
        """Lets a sound step through, and leaves out another or ends training; alike on every process.

        The loss and the norm are fetched together, the only time in a step that this waits for the device.
        """
        loss = torch.stack(self._step_losses).sum().float()
        norm = torch.as_tensor(0.0 if norm is None else norm, dtype=loss.dtype, device=loss.device)
        loss, norm = self.accelerator.reduce(torch.stack([loss, norm]), "mean").tolist()
        step, watch = self.state.global_step + 1, self.watch
        fault = watch.fault(step, loss, norm, self.policy.margin)
        if fault is None:
            watch.accept(loss)
        elif self.policy.skips:
            self._leave_out(model, fault, loss, norm)
        elif not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(step, fault, self._identities())
        else:
            watch.exploded.append({"step": step, "what": fault, "rows": self._identities()})
            if len(watch.exploded) == IN_A_ROW:
                first = watch.exploded[0]
                raise Diverged(first["step"], f"{first['what']}, and so it went on for {IN_A_ROW} steps", first["rows"])
        # As after an overflow under a gradient scaler: the trainer then leaves the schedule where it is.
        cast(Any, self.optimizer)._is_overflow = is_left_out = fault is not None and self.policy.skips
        self._steps_since_log["skipped" if is_left_out else "taken"] += 1
        self._step_losses.clear()
        self._step_rows.clear()
        if not is_left_out:
            self.step_taken()

    def _leave_out(self, model: torch.nn.Module, fault: str, loss: float, norm: float) -> None:
        """Makes as if the step had not been, and remembers it."""
        step, watch, rows = self.state.global_step + 1, self.watch, self._identities()
        watch.leave_out(step, fault, loss, norm, rows)
        if watch.in_a_row == IN_A_ROW:
            first = watch.skipped[-IN_A_ROW]
            more = f"{first['reason']}, and of the {IN_A_ROW} steps from there on none could be taken"
            raise Diverged(first["step"], more, first["rows"])
        if len(watch.skipped) > self.policy.most:
            more = f"{fault}, and {self.policy.most:,} steps were left out already (training.max_skipped_steps)"
            raise Diverged(step, more, rows)
        model.zero_grad()  # to None, so that the optimizer passes over the weights, their moments and their decay
        assert self._loss_before is not None
        self._tr_loss.copy_(self._loss_before)
        self.step_left_out(torch.cat(self._step_rows).tolist())
        if self.is_world_process_zero():
            _log.warning("Step %d is left out: %s (rows %s).", step, fault, ", ".join(rows))

    def _identities(self) -> list[str]:
        """The rows of the step, of all processes; of its micro-batches with a loss that is no number, if it has any."""
        train = cast(MixedRows, self.train_dataset)
        batches = [
            (math.isfinite(loss), [train.identity(row) for row in rows.tolist()])
            for loss, rows in zip(torch.stack(self._step_losses).tolist(), self._step_rows, strict=True)
        ]
        if self.accelerator.num_processes > 1:
            batches = gather_object(batches)
        broken = [rows for is_finite, rows in batches if not is_finite]
        return list(dict.fromkeys(chain.from_iterable(broken or [rows for _, rows in batches])))

    def check_weights(self) -> None:
        """Raises Diverged where a trained weight is no finite number, on any process."""
        trained = (weight for weight in cast(PreTrainedModel, self.model).parameters() if weight.requires_grad)
        finite = torch.stack([torch.isfinite(own_part(w)).all().to(self.args.device) for w in trained]).all()
        if self.accelerator.reduce(finite.float(), "mean").item() < 1:
            step = self.state.global_step
            raise Diverged(step, f"there are weights that are no finite numbers after step {step}")

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Saves what can be gone on from: nothing in a row of exploded steps, which began before it was noticed."""
        if not self.watch.exploded:
            self.check_weights()
            super()._save_checkpoint(model, trial)

    def progress(self) -> dict[str, Any]:
        kept = super().progress()
        kept["since_log"]["steps"] = self._steps_since_log
        return kept

    def restore(self, progress: dict[str, Any]) -> None:
        super().restore(progress)
        self._steps_since_log = {name: int(progress["since_log"]["steps"][name]) for name in ("taken", "skipped")}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs:  # what is logged of steps, and not of a validation or at the end
            taken, skipped = self._steps_since_log["taken"], self._steps_since_log["skipped"]
            self._steps_since_log = {"taken": 0, "skipped": 0}
            if skipped:  # the trainer has divided by the number of all steps
                logs["loss"] = logs["loss"] * (taken + skipped) / taken if taken else math.nan
            if self.watch.skipped:
                logs["skipped_steps"] = len(self.watch.skipped)
            # What is no number says nothing, and no reader of JSON but Python's would take it.
            for name in ("loss", "grad_norm"):
                if not math.isfinite(logs.get(name, 0.0)):
                    del logs[name]
        super().log(logs, start_time)
