"""The training loop, from top to bottom: forward, backward, clip, check, step, log, validate, save.

Read :meth:`Loop.run` first, then :meth:`Loop.step`. Devices, processes and sharding are accelerate's.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from hycam import processes
from hycam.errors import Diverged, HycamError, Interrupted
from hycam.labelled import head_at, labelled_positions
from hycam.training import distributed, state
from hycam.training.checkpoints import PROGRESS, damage
from hycam.training.job import Job
from hycam.training.metrics import Figures, Metrics
from hycam.training.rows import Counts, PackedCollator, PaddedCollator, identities, load_batches
from hycam.training.setup import (
    accepts_items,
    allocate_ranks,
    build_optimizer,
    build_schedule,
    prepare_model,
    takes_the_loss,
)
from hycam.training.state import Progress, Trained, refused
from hycam.training.validation import same_randomness, validation_losses
from hycam.tuners.hycam import HyCAMModel


class Loop:
    """One training, whose objective is the loss that the model's own forward returns.

    So a HyCAM adapter adds its balance loss itself. Logits are computed for labelled positions only (see
    :mod:`hycam.labelled`), which changes no value. Counts and logged figures are over the rows of all processes.

    Args:
        model: the adapted backbone.
        job: what to train on, and how.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, job: Job) -> None:
        self.model, self.job, self.arguments = model, job, job.arguments
        self.rows, self.batches, self.settings = job.rows, job.batches, job.recipe.training
        self.accumulation, self.max_steps = self.settings.gradient_accumulation, job.max_steps
        self.accelerator = distributed.accelerator(job.arguments)
        self.device = self.accelerator.device
        self.progress = Progress()
        self.figures = Figures(self.rows.tasks, self.device)
        self.metrics = Metrics(job.run.metrics, job.arguments, self.accelerator)
        self._collate = PackedCollator() if self.batches.packing else PaddedCollator(job.tokenizer)
        self._tuner = next((module for module in model.modules() if isinstance(module, HyCAMModel)), None)
        self._scales_with_items = accepts_items(model)
        self._goes_back = self.settings.early_stopping_patience is not None
        self._began = time.monotonic()

    def run(self, resumed: Path | None = None) -> dict[str, float]:
        """Trains to the end, from a checkpoint if one is given.

        Returns:
            the validation of the weights that training ended with.

        Raises:
            Diverged: further steps would do harm.
            Interrupted: the process was asked to end; there is a checkpoint.
        """
        self._prepare(resumed)
        progress = self.progress
        try:
            if self.job.also is not None and resumed is None:
                self.evaluate()
            if progress.validation_due:
                self._validate()
            while not progress.is_finished:
                for micro_batches in self._micro_batches(progress.step // self.job.steps_in_epoch):
                    norm, rate = self.step(micro_batches)
                    self._after_step(norm, rate)
                    if progress.is_finished:
                        break
            self._log_end()
            if self._goes_back and progress.best_step is not None:
                self._go_back(progress.best_step)
            progress.seconds = self._elapsed()
            self._check_weights()
            return self._last_validation()
        finally:
            self.metrics.close()

    def step(self, micro_batches: list[dict[str, Any]]) -> tuple[Tensor, float]:
        """One optimizer step on this process's micro-batches; the norm of its gradient and its learning rate."""
        accelerator, rows = self.accelerator, [batch.pop("row") for batch in micro_batches]  # which rows they have
        counts = Counts.of(micro_batches, rows, self.rows, self.device)
        items = None
        if self._scales_with_items:  # without a label the loss is 0
            items = torch.tensor(max(counts.labelled, 1), dtype=torch.float32, device=self.device)
        losses = []
        for number, batch in enumerate(micro_batches, 1):
            accelerator.sync_gradients = number == len(micro_batches)
            with distributed.synchronized(accelerator, self.wrapped):
                self.wrapped.train()
                loss = self.loss_of(send_to_device(batch, self.device), items, len(micro_batches))
                self.job.reached("forward")
                distributed.backward(accelerator, loss)  # under DeepSpeed the last one takes the step as well
                self.job.reached("backward")
            losses.append(loss.detach())

        norm = distributed.clip(accelerator, self.wrapped, self.arguments.max_grad_norm or math.inf)
        rate = float(self.optimizer.param_groups[0]["lr"])
        if self._is_sound(losses, norm, rows):
            self.optimizer.step()
            allocate_ranks(self.model, self.progress.step - len(self.progress.watch.skipped))
            if not takes_the_loss(self.schedule):
                self.schedule.step()
            self.figures.accept(losses)
            self.progress.count_rows(counts.rows)
        else:
            self.figures.skip()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += counts.tokens
        self.progress.flops += 6.0 * counts.size * self._weights
        self.job.reached("step")
        return norm, rate

    def loss_of(self, batch: dict[str, Any], items: Tensor | None, micro_batches: int) -> Tensor:
        """A micro-batch's part of its step's loss.

        The model's own forward computes it: transformers' cross-entropy of ``shift_labels``, and the balance loss of
        the tuner.

        Args:
            batch: as the collators make it.
            items: the labelled tokens of the step on all processes; None if the model's loss is a mean.
            micro_batches: how many the step has.
        """
        task, labels = batch.pop("task"), batch["labels"]
        row, position, targets = labelled_positions(labels)
        if self._tuner is not None and not task.numel():
            batch["balance_mask"] = torch.zeros_like(batch["attention_mask"])
        scale = {} if items is None else {"num_items_in_batch": items}
        with head_at(cast(PreTrainedModel, self.model), row, position):
            outputs = self.wrapped(**batch, **scale, shift_labels=targets)
        if len(targets):
            if task.dim() == 1:  # one task a row; a packed row has one for each token
                task = task.unsqueeze(1).expand(-1, labels.shape[1])
            self.figures.note_tasks(outputs.logits[0], targets, task[row, position])
            if self._tuner is not None:
                self.figures.note_routing(self._tuner.last_stats)
        # The mean over the processes, which their gradients get, becomes a sum again.
        return outputs.loss / micro_batches if items is None else outputs.loss * processes.world_size()

    def _is_sound(self, losses: list[Tensor], norm: Tensor, rows: list[Tensor]) -> bool:
        """Whether to take the step; every process decides the same."""
        loss = torch.stack(losses).sum().float()
        both = torch.stack([loss, norm.to(loss)])
        mean_loss, mean_norm = self.accelerator.reduce(both, "mean").tolist()
        names = partial(identities, self.rows, rows, losses)
        return self.progress.watch.takes(self.progress.step + 1, mean_loss, mean_norm, self.settings, names)

    def _micro_batches(self, epoch: int) -> Iterator[list[dict[str, Any]]]:
        """The micro-batches of every remaining step of an epoch."""
        self.batches.set_epoch(epoch)
        taken = self.progress.step % self.job.steps_in_epoch
        left = islice(self.batches, taken * self.accumulation, None)
        loader = load_batches(self.rows, left, self._collate, self.arguments)
        with same_randomness() if taken else nullcontext():  # an iterator draws a number once an epoch
            iterator = iter(loader)
        for _ in range(taken, self.job.steps_in_epoch):
            yield list(islice(iterator, self.accumulation))

    def _after_step(self, norm: Tensor, rate: float) -> None:
        """Logs, validates, saves and leaves, where that is due."""
        progress, arguments, step = self.progress, self.arguments, self.progress.step
        progress.is_finished = is_last = step >= self.max_steps
        self.step_ended()
        if step % arguments.logging_steps == 0 or (step == 1 and arguments.logging_first_step):
            self._log_steps(norm, rate)
        every = arguments.eval_steps
        try:
            if every and (step % every == 0 or is_last) and step >= arguments.eval_delay:
                self._validate()
        except Interrupted:
            progress.validation_due = True
        else:
            if arguments.save_strategy != "no" and (step % arguments.save_steps == 0 or is_last):
                self.save()
        self._leave()
        if (empty := arguments.torch_empty_cache_steps) and step % empty == 0:
            torch.cuda.empty_cache()

    def step_ended(self) -> None:
        self.job.reporter.update("training", self.progress.step, self.max_steps, self.metrics.note)

    def _log_steps(self, norm: Tensor, rate: float) -> None:
        progress = self.progress
        total, values = self.figures.line(self.accelerator)
        progress.loss_sum += total
        values |= {"grad_norm": norm.item(), "learning_rate": rate}
        values |= {f"share_{name}": share for name, share in progress.shares().items()}
        if progress.watch.skipped:
            values["skipped_steps"] = len(progress.watch.skipped)
        self.log(values)

    def log(self, values: dict[str, float]) -> None:
        """Writes a line of metrics; non-finite values are dropped, since JSON cannot hold them."""
        progress = self.progress
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if progress.step:
            epoch, step = divmod(progress.step, self.job.steps_in_epoch)
            values["epoch"] = epoch + step * self.accumulation / len(self.batches)
        values["num_input_tokens_seen"] = progress.tokens
        self.metrics.write(progress.step, self._elapsed(), values)
        progress.logged += 1

    def _log_end(self) -> None:
        """The last line: the mean loss of all steps, and the speed of those that this process took."""
        progress, seconds = self.progress, max(time.monotonic() - self._started, 1e-9)
        made = progress.step - self._first_step
        size = self.arguments.per_device_train_batch_size * self.accumulation * processes.world_size()
        speed = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(made * size / seconds, 3),
            "train_steps_per_second": round(made / seconds, 3),
        }
        mean = (progress.loss_sum + self.figures.loss.item()) / max(progress.step, 1)
        self.log(speed | {"total_flos": progress.flops, "train_loss": mean})

    def _elapsed(self) -> float:
        """Seconds of training so far; steps that a resumed run repeats count once."""
        return time.monotonic() - self._began

    def _validate(self) -> None:
        """Validates, and decides which weights are the best and whether to go on."""
        progress = self.progress
        loss = self.evaluate()["eval_loss"]
        if takes_the_loss(self.schedule):
            self.schedule.step(loss)
        progress.validation_due = False
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = loss, progress.step, 0
        else:
            progress.worse += 1
        patience = self.settings.early_stopping_patience
        progress.is_finished |= patience is not None and progress.worse >= patience

    def evaluate(self) -> dict[str, float]:
        """One pass over the validation rows, logged, which has no effect on training.

        Raises:
            Interrupted: the process was asked to end.
            Diverged: the loss of a task is not finite.
        """

        def told(done: int, total: int) -> None:
            job.reached("validation")
            job.reporter.update("validation", done, total)
            leave_if_asked()

        def leave_if_asked() -> None:
            job.stop.agree(self.device)
            job.stop.check()

        job, progress, model = self.job, self.progress, cast(PreTrainedModel, self.model)
        leave_if_asked()
        with same_randomness():
            size = job.recipe.evaluation.batch_size
            found = validation_losses(model, job.tokenizer, job.data.validation, size, progress.step, told)
            further = dict(job.also(model, job.tokenizer)) if job.also else {}
        progress.validation, progress.validated_at = found, progress.step
        self.log(found | further)
        return found

    def _last_validation(self) -> dict[str, float]:
        """The validation of the final weights, which early stopping may have replaced by the best."""
        if self.progress.validated_at == self.progress.step and not self._goes_back:
            return self.progress.validation
        try:
            return self.evaluate()
        except Interrupted:
            if not self._goes_back:  # else the weights are not those of this step
                self._leave()
            raise

    def _check_weights(self) -> None:
        """Raises Diverged where a trained weight is not finite, on any process."""
        trained = [distributed.own_part(weight) for weight in self.model.parameters() if weight.requires_grad]
        finite = torch.stack([torch.isfinite(weight).all().to(self.device) for weight in trained]).all()
        if self.accelerator.reduce(finite.float(), "mean").item() < 1:
            step = self.progress.step
            raise Diverged(step, f"there are weights that are not finite after step {step}")

    def save(self) -> None:
        """Saves a checkpoint, unless there is one or the loss has just exploded."""
        if self.progress.watch.exploded:
            return
        self._check_weights()
        step, is_main = self.progress.step, processes.is_main()
        if step in self.job.checkpoints.steps():  # training continued from it
            return
        folder = self.job.checkpoints.at(step)
        self.progress.seconds = self._elapsed()
        try:
            self.progress.sums = self.figures.kept()
            state.save(self.trained, self.progress, folder)
            processes.barrier()  # each process has written its part
            if is_main:
                self.job.checkpoints.seal(step)
            processes.barrier()  # so that all see the same checkpoints from here on
        except Exception:
            if is_main:  # half a checkpoint would only take room on a full disk
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if is_main:
            self.job.checkpoints.rotate()

    def _leave(self) -> None:
        """Ends training with a checkpoint if the process was asked to end."""
        self.job.stop.agree(self.device)
        if self.job.stop.number is not None:
            self.save()
            self.job.stop.check(f"The same command continues from step {self.progress.step}.")

    def _go_back(self, best: int) -> None:
        """Puts the weights of the best checkpoint back."""
        folder = self.job.checkpoints.at(best)
        if wrong := damage(folder):
            raise HycamError(
                f"{folder}, the best checkpoint, with which the run should end, is damaged: {wrong}. The same command "
                "trains again from the last checkpoint that does not need it."
            )
        state.load_weights(self.trained, folder)

    def _prepare(self, resumed: Path | None) -> None:
        """Builds optimizer and schedule, distributes the model, and restores a checkpoint."""
        model, arguments, accelerator = self.model, self.arguments, self.accelerator
        prepare_model(model, self.job.tokenizer, arguments)
        trained = self.trained = Trained(accelerator, model, model, None, None)
        is_sharded = trained.is_fsdp or trained.is_deepspeed
        if resumed is not None and not is_sharded:
            state.load_weights(trained, resumed)
        optimizer = build_optimizer(model, self.job.recipe.method.settings(), arguments)
        self.wrapped, self.optimizer = trained.wrapped, trained.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = trained.schedule = build_schedule(self.optimizer, arguments, self.max_steps)
        self._weights = distributed.parameters(cast(PreTrainedModel, model), exclude_embeddings=True)
        if resumed is not None:
            if is_sharded:
                state.load_weights(trained, resumed)
            self.progress = state.restore(trained, resumed)
            try:
                self.figures.restore(self.progress.sums)
            except (ValueError, RuntimeError) as error:
                raise refused(resumed / PROGRESS, f"it is of other tasks: {error}") from error
        self._started = time.monotonic()
        self._began, self._first_step = self._started - self.progress.seconds, self.progress.step
        self.metrics.begin(self.progress.step, self.progress.logged)
