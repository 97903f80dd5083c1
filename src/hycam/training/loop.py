"""The training loop, from top to bottom: forward, backward, judge, clip, step, log, validate, save.

Read :meth:`Loop.run` first, then :meth:`Loop.step`. Devices, processes and sharding are accelerate's; the arithmetic is
the same under all of them.
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from hycam import processes
from hycam.console import Reports
from hycam.errors import Diverged, HycamError, Interrupted
from hycam.labelled import head_at, labelled_positions
from hycam.optim import OptimizerSettings
from hycam.training import distributed, state
from hycam.training.checkpoints import PROGRESS, Checkpoints, damage
from hycam.training.metrics import Figures, Metrics
from hycam.training.optimizers import build_optimizer, build_schedule, takes_the_loss
from hycam.training.plan import Plan
from hycam.training.rows import Counts, PackedCollator, PaddedCollator, identities, load_batches
from hycam.training.setup import accepts_items, allocate_ranks, prepare_model
from hycam.training.state import Progress, Trained, refused
from hycam.training.stopping import Stop
from hycam.training.validation import same_randomness, validation_losses
from hycam.tuners.hycam import HyCAMModel


class Loop:
    """One training, whose objective is what the model's own forward returns.

    A HyCAM adapter thus brings its balance loss with it. Logits are computed for the labelled positions only (see
    :mod:`hycam.labelled`), which changes no value. All that is counted and logged is over the rows of all processes.

    Args:
        model: the adapted backbone.
        tokenizer: pads the batches.
        arguments: as :func:`hycam.training.arguments.training_arguments` gives them.
        plan: the rows.
        optimizer: what the method's optimizer has beyond AdamW.
        checkpoints: where they are kept.
        metrics: the file for everything that is logged.
        stop: whether the process was asked to end.
        reporter: shows how far it has come.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        arguments: TrainingArguments,
        plan: Plan,
        optimizer: OptimizerSettings,
        checkpoints: Checkpoints,
        metrics: Path,
        stop: Stop,
        reporter: Reports,
    ) -> None:
        self.model, self.tokenizer, self.arguments, self.plan = model, tokenizer, arguments, plan
        self.checkpoints, self.stop, self.reporter = checkpoints, stop, reporter
        self.accumulation = arguments.gradient_accumulation_steps
        self.steps_an_epoch = max(1, -(-len(plan.batches) // self.accumulation))
        self.max_steps = arguments.max_steps
        if self.max_steps < 0:
            self.max_steps = math.ceil(arguments.num_train_epochs * self.steps_an_epoch)
        self.accelerator = distributed.accelerator(arguments)
        self.device = self.accelerator.device
        self.progress = Progress()
        self.figures = Figures(plan.rows.tasks, self.device)
        self.metrics = Metrics(metrics, arguments, self.accelerator)
        self.optimizer_settings = optimizer
        self._collate = PackedCollator() if plan.batches.packing else PaddedCollator(tokenizer)
        self._tuner = next((module for module in model.modules() if isinstance(module, HyCAMModel)), None)
        self._scales_with_items = accepts_items(model)
        self._began = time.monotonic()
        self._ended = plan.trial.at if plan.trial is not None else lambda phase: None

    def run(self, resumed: Path | None = None) -> dict[str, float]:
        """Trains to the end, from a checkpoint if one is given.

        Returns:
            the validation of the weights that training ended with.

        Raises:
            Diverged: no good can come of further steps.
            Interrupted: the process was asked to end; there is a checkpoint.
        """
        self._prepare(resumed)
        progress = self.progress
        try:
            if self.plan.also is not None and resumed is None:
                self.evaluate()
            if progress.validation_due:
                self._validate()
            while not progress.is_finished:
                for micro_batches in self._micro_batches(progress.step // self.steps_an_epoch):
                    norm, rate = self.step(micro_batches)
                    self._after_step(norm, rate)
                    if progress.is_finished:
                        break
            self._log_end()
            if self.plan.patience is not None and progress.best_step is not None:
                self._go_back(progress.best_step)
            progress.seconds = self.elapsed()
            self.check_weights()
            return self._last_validation()
        finally:
            self.metrics.close()

    def step(self, micro_batches: list[dict[str, Any]]) -> tuple[Tensor, float]:
        """One optimizer step on this process's micro-batches; the norm of its gradient and its learning rate."""
        accelerator, rows = self.accelerator, [batch.pop("row") for batch in micro_batches]  # which rows they have
        counts = Counts.of(micro_batches, rows, self.plan.rows, self.device)
        items = None
        if self._scales_with_items:  # without a label the loss is 0
            items = torch.tensor(max(counts.labelled, 1), dtype=torch.float32, device=self.device)
        losses = []
        for number, batch in enumerate(micro_batches, 1):
            accelerator.sync_gradients = number == len(micro_batches)
            with distributed.synchronized(accelerator, self.wrapped):
                self.wrapped.train()
                loss = self.loss_of(send_to_device(batch, self.device), items, len(micro_batches))
                self._ended("forward")
                distributed.backward(accelerator, loss)  # under DeepSpeed the last one takes the step as well
                self._ended("backward")
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
            self.figures.leave_out()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += counts.tokens
        self.progress.flops += 6.0 * counts.size * self._weights
        self._ended("step")
        return norm, rate

    def loss_of(self, batch: dict[str, Any], items: Tensor | None, micro_batches: int) -> Tensor:
        """What a micro-batch adds to the loss of its step.

        Args:
            batch: as the collators make it.
            items: the labelled tokens of the step on all processes; None where the model's loss is a mean.
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
        """Whether the step is to be taken, which is the same on every process.

        Loss and norm are fetched together, the only time in a step that this waits for the device.
        """
        loss = torch.stack(losses).sum().float()
        both = torch.stack([loss, norm.to(loss)])
        mean_loss, mean_norm = self.accelerator.reduce(both, "mean").tolist()
        names = partial(identities, self.plan.rows, rows, losses)
        return self.progress.watch.takes(self.progress.step + 1, mean_loss, mean_norm, self.plan.policy, names)

    def _micro_batches(self, epoch: int) -> Iterator[list[dict[str, Any]]]:
        """The micro-batches of every step of an epoch that was not taken yet."""
        self.plan.batches.set_epoch(epoch)
        taken = self.progress.step % self.steps_an_epoch
        left = islice(self.plan.batches, taken * self.accumulation, None)
        loader = load_batches(self.plan.rows, left, self._collate, self.arguments)
        with same_randomness() if taken else nullcontext():  # an iterator draws a number, once in an epoch
            iterator = iter(loader)
        for _ in range(taken, self.steps_an_epoch):
            yield list(islice(iterator, self.accumulation))

    def _after_step(self, norm: Tensor, rate: float) -> None:
        """Logs, validates, saves and leaves, as it is due after a step."""
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
        self.reporter.update("training", self.progress.step, self.max_steps, self.metrics.note)

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
        """Writes a line of metrics; values that are not finite are left out, since JSON cannot hold them."""
        progress = self.progress
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if progress.step:
            epoch, step = divmod(progress.step, self.steps_an_epoch)
            values["epoch"] = epoch + step * self.accumulation / len(self.plan.batches)
        values["num_input_tokens_seen"] = progress.tokens
        self.metrics.write(progress.step, self.elapsed(), values)
        progress.logged += 1

    def _log_end(self) -> None:
        """The closing line, with the mean loss of all steps and the speed of those that this process has made."""
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

    def elapsed(self) -> float:
        """Seconds of training so far; the steps that a later process repeats count once."""
        return time.monotonic() - self._began

    def _validate(self) -> None:
        """A validation that decides which weights are the best, and whether to go on."""
        progress = self.progress
        loss = self.evaluate()["eval_loss"]
        if takes_the_loss(self.schedule):
            self.schedule.step(loss)
        progress.validation_due = False
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = loss, progress.step, 0
        else:
            progress.worse += 1
        progress.is_finished |= self.plan.patience is not None and progress.worse >= self.plan.patience

    def evaluate(self) -> dict[str, float]:
        """One pass over the validation rows, logged.

        It changes nothing that training goes by, whether it comes to its end or not.

        Raises:
            Interrupted: the process was asked to end.
            Diverged: the loss of a task is not finite.
        """

        def told(done: int, total: int) -> None:
            self.reporter.update("validation", done, total)
            leave_if_asked()

        def leave_if_asked() -> None:
            self.stop.agree(self.device)
            self.stop.check()

        leave_if_asked()
        model, progress, size = (
            cast(PreTrainedModel, self.model),
            self.progress,
            self.arguments.per_device_eval_batch_size,
        )
        with same_randomness():
            found = validation_losses(model, self.tokenizer, self.plan.validation, size, progress.step, told)
            further = dict(self.plan.also()) if self.plan.also else {}
        progress.validation, progress.validated_at = found, progress.step
        self.log(found | further)
        self._ended("validation")
        return found

    def _last_validation(self) -> dict[str, float]:
        """The validation of the weights that training ended with, which early stopping may have exchanged."""
        goes_back = self.plan.patience is not None
        if self.progress.validated_at == self.progress.step and not goes_back:
            return self.progress.validation
        try:
            return self.evaluate()
        except Interrupted:
            if not goes_back:  # else they are not those that belong to this step
                self._leave()
            raise

    def check_weights(self) -> None:
        """Raises Diverged where a trained weight is not finite, on any process."""
        trained = [distributed.own_part(weight) for weight in self.model.parameters() if weight.requires_grad]
        finite = torch.stack([torch.isfinite(weight).all().to(self.device) for weight in trained]).all()
        if self.accelerator.reduce(finite.float(), "mean").item() < 1:
            step = self.progress.step
            raise Diverged(step, f"there are weights that are not finite after step {step}")

    def save(self) -> None:
        """Saves a checkpoint, unless there is one, or the loss has been exploding since before it was noticed."""
        if self.progress.watch.exploded:
            return
        self.check_weights()
        step, is_main = self.progress.step, processes.is_main()
        if step in self.checkpoints.steps():  # it continues from there
            return
        self.progress.seconds = self.elapsed()
        try:
            self.progress.sums = self.figures.kept()
            state.save(self.trained, self.progress, self.checkpoints.at(step))
            processes.barrier()  # each process has written its part
            if is_main:
                self.checkpoints.seal(step)
            processes.barrier()  # so that all see the same checkpoints, whenever they look
        except Exception:
            if is_main:  # on a full disk, half a checkpoint is in the way
                shutil.rmtree(self.checkpoints.at(step), ignore_errors=True)
            raise
        if is_main:
            self.checkpoints.rotate()

    def _leave(self) -> None:
        """Ends training where it stands, with a checkpoint, if the process was asked to end."""
        self.stop.agree(self.device)
        if self.stop.number is not None:
            self.save()
            self.stop.check(f"The same command continues from step {self.progress.step}.")

    def _go_back(self, best: int) -> None:
        """Puts the weights of the best checkpoint back."""
        folder = self.checkpoints.at(best)
        if wrong := damage(folder):
            raise HycamError(
                f"{folder}, the best checkpoint, which the run was to end with, is not whole: {wrong}. The same "
                "command trains again from the last checkpoint that does not need it."
            )
        state.load_weights(self.trained, folder)

    def _prepare(self, resumed: Path | None) -> None:
        """Makes the optimizer and the schedule, shares the model out, and restores what a checkpoint holds."""
        model, arguments, accelerator = self.model, self.arguments, self.accelerator
        prepare_model(model, self.tokenizer, arguments)
        trained = self.trained = Trained(accelerator, model, model, None, None)
        is_sharded = trained.is_fsdp or trained.is_deepspeed
        if resumed is not None and not is_sharded:
            state.load_weights(trained, resumed)
        optimizer = build_optimizer(model, self.optimizer_settings, arguments)
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
