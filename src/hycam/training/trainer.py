"""``transformers.Trainer`` with the loss of every task: in training for the log, in validation for early stopping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME

from hycam import processes
from hycam.data.batches import Batches
from hycam.errors import Diverged
from hycam.evaluation.perplexity import across_tasks, response_nll
from hycam.labelled import head_at, labelled_positions
from hycam.optim import OptimizerSettings, RiemannianAdamW, factor_pairs, parameter_groups
from hycam.training.callbacks import RowCounter, StepCallback
from hycam.training.checkpoints import Checkpoints
from hycam.training.distributed import shard_on_a_cpu
from hycam.training.divergence import Policy
from hycam.training.packing import PackedCollator
from hycam.training.resumable import same_randomness
from hycam.training.rows import MixedRows, PaddedCollator
from hycam.training.savings import OPTIMIZERS, keep_embeddings_in_32_bits
from hycam.training.stopping import Stop
from hycam.training.watched import WatchedTrainer
from hycam.tuners.hycam import HyCAMModel


class MultiTaskTrainer(WatchedTrainer):
    """Trains on the rows of several tasks, mixed.

    The objective is what the model's own forward returns, so a HyCAM adapter brings its balance loss with it; logits
    are computed for the labelled positions only (see :mod:`hycam.labelled`), which changes no value. Logged beside the
    loss: each task's own mean loss per labelled token since the last log, its share of the rows so far, the balance
    loss, and the routing averaged over tokens and layers. Validation is one pass over every task's rows; ``eval_loss``,
    which picks the best checkpoint and stops early, is the mean of the tasks' losses (the Trainer's own evaluation of a
    dictionary of datasets has no such aggregate). Of a step that is left out (:class:`WatchedTrainer`) neither the rows
    nor the losses are counted.

    Where several processes train together, all of these figures are over the rows of all processes.

    Args:
        model: the adapted backbone.
        arguments: the trainer's settings; ``remove_unused_columns`` has to be off, since rows carry their task.
        tokenizer: pads the batches.
        train: the training rows of all tasks.
        batches: which of them make up each micro-batch; packed ones are laid out in one row.
        validation: the validation rows of each task, as :func:`hycam.evaluation.perplexity.response_nll` takes them.
        optimizer: what the method's optimizer has beyond AdamW.
        checkpoints: where they are kept.
        stop: whether the process was asked to end.
        policy: what to do about a step that would do harm.
        progress: called during validation with rows done and rows in all.
        also: gives further figures of each validation, which are logged beside its losses.
        at: called with ``forward``, ``backward`` and ``step`` when one has ended.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        arguments: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        train: MixedRows,
        batches: Batches,
        validation: dict[str, datasets.Dataset],
        optimizer: OptimizerSettings,
        checkpoints: Checkpoints,
        stop: Stop,
        policy: Policy = Policy(),  # noqa: B008  # it is frozen
        progress: Callable[[int, int], None] | None = None,
        also: Callable[[], Mapping[str, float]] | None = None,
        at: Callable[[str], None] = lambda phase: None,
    ) -> None:
        self.tasks = train.tasks
        self.batches = batches
        self.optimizer_settings = optimizer
        self.tell = progress
        self.also = also
        self.at = at
        self._sums = torch.zeros(2, len(self.tasks), dtype=torch.float64)  # NLL and tokens of each task
        self._routing = torch.zeros(0, dtype=torch.float64)  # the balance loss and each module's share, summed
        self._routed = 0  # so many micro-batches
        self._step_sums = torch.zeros_like(self._sums)  # the same of the step that is being made
        self._step_routing: list[Tensor] = []
        super().__init__(
            policy,
            checkpoints=checkpoints,
            stop=stop,
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=PackedCollator() if batches.packing else PaddedCollator(tokenizer),
            processing_class=tokenizer,
            callbacks=[RowCounter(), StepCallback(at)],
        )
        self.tuner = next((module for module in model.modules() if isinstance(module, HyCAMModel)), None)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        shard_on_a_cpu(self)

    @property
    def counter(self) -> RowCounter:
        """The counter of rows; resuming puts another in its place."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, RowCounter))

    def get_train_dataloader(self) -> DataLoader:
        """Micro-batches as ``batches`` has them, in place of the Trainer's own shuffling."""
        arguments = self.args
        loader = DataLoader(
            cast(MixedRows, self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
        )
        # Not shared out again: the batches are those of this process already.
        return prepare_data_loader(loader, self.accelerator.device, 1, 0, put_on_device=True)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of a step, whose rows are counted here, and the labelled tokens of all processes' ones."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._count([row for batch in batches for row in batch["row"].tolist()])
        return batches, items.clamp(min=1) if isinstance(items, Tensor) else items  # without a label the loss is zero

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's own, with the groups of the method, and preconditioned where the method asks for it."""
        if self.optimizer is None:
            model = cast(PreTrainedModel, self.model if model is None else model)
            settings, arguments = self.optimizer_settings, self.args
            kind, options = self.get_optimizer_cls_and_kwargs(arguments, model)
            if settings.preconditioned:
                options = {key: options[key] for key in ("lr", "betas", "eps")}
                kind = partial(RiemannianAdamW, pairs=factor_pairs(model), damping=settings.damping)
            decaying = self.get_decay_parameter_names(model)
            groups = parameter_groups(model, settings, arguments.learning_rate, arguments.weight_decay, decaying)
            self.optimizer = kind(groups, **options)
            if arguments.optim == OPTIMIZERS["8bit"]:
                keep_embeddings_in_32_bits(model)
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        task = inputs.pop("task")
        row, position, targets = labelled_positions(inputs["labels"])
        if self.tuner is not None:
            self.tuner.counts_tokens = task.numel() > 0
        if not task.numel():
            inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])  # some kernels take no empty row
        if task.dim() == 1:  # one task a row; a packed row has one for each token
            task = task.unsqueeze(1).expand(-1, inputs["labels"].shape[1])
        with head_at(self.accelerator.unwrap_model(model), row, position):
            loss, outputs = super().compute_loss(model, {**inputs, "shift_labels": targets}, True, num_items_in_batch)
        if len(targets):
            self._note(outputs.logits[0], targets, task[row, position])
        self.at("forward")
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.at("backward")
        return loss

    def _count(self, rows: list[int], sign: int = 1) -> None:
        """Counts rows of this process, given their numbers, with those of the others."""
        own = Counter(map(cast(MixedRows, self.train_dataset).task, rows))
        numbers = processes.total(torch.tensor([own[name] for name in self.tasks]), self.args.device)
        self.counter.add({name: sign * number for name, number in zip(self.tasks, numbers.tolist(), strict=True)})

    @torch.no_grad()
    def _note(self, logits: Tensor, targets: Tensor, of_task: Tensor) -> None:
        """Adds the NLL of ``n`` labelled tokens to the sums of their tasks; ``logits [n, V]``, the others ``[n]``."""
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        of_task = of_task.cpu()
        self._step_sums[0].index_add_(0, of_task, each.double().cpu())
        self._step_sums[1].index_add_(0, of_task, torch.ones_like(of_task, dtype=torch.float64))
        if self.tuner is not None and (routing := self.tuner.last_stats.routing):
            stats = self.tuner.last_stats
            assert stats.balance_loss is not None
            mean = torch.stack(list(routing.values())).mean(dim=0)
            self._step_routing.append(torch.cat((stats.balance_loss.reshape(1), mean)).cpu().double())

    def step_taken(self) -> None:
        self._sums += self._step_sums
        for found in self._step_routing:
            self._routing = found if self._routed == 0 else self._routing + found
            self._routed += 1
        self._forget_step()

    def step_left_out(self, rows: list[int]) -> None:
        self._count(rows, -1)
        self._forget_step()

    def _forget_step(self) -> None:
        self._step_sums.zero_()
        self._step_routing.clear()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            sums = processes.total(self._sums, self.args.device)
            for name, total, tokens in zip(self.tasks, *sums.tolist(), strict=True):
                if tokens:
                    logs[f"loss_{name}"] = total / tokens
            self._sums.zero_()
            logs.update({f"share_{name}": share for name, share in self.counter.shares().items()})
            if self._routed:
                balance, *routing = (self._routing / self._routed).tolist()
                logs["balance_loss"] = balance
                logs.update({f"routing_{k}": share for k, share in enumerate(routing)})
                self._routed = 0
        super().log(logs, start_time)

    def progress(self) -> dict[str, Any]:
        kept = super().progress()
        kept["since_log"] |= {
            "tasks": self._sums.tolist(),
            "routing": self._routing.tolist(),
            "routed": self._routed,
        }
        return kept

    def restore(self, progress: dict[str, Any]) -> None:
        super().restore(progress)
        kept = progress["since_log"]
        self._sums = torch.tensor(kept["tasks"], dtype=torch.float64).view_as(self._sums)
        self._routing, self._routed = torch.tensor(kept["routing"], dtype=torch.float64), int(kept["routed"])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of the settings, which only unsafe loading reads; the run folder has them as YAML.
        Path(output_dir or cast(str, self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    @torch.compiler.set_stance("force_eager")  # more graphs, for validation, would cost more than they save
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """One pass over the validation rows: ``eval_loss`` (mean over tasks) and ``eval_loss_TASK`` (per token).

        It changes nothing that training goes by, whether it comes to its end or not.

        Raises:
            Interrupted: the process was asked to end.
            Diverged: the loss of a task is no finite number.
        """
        validation = cast("dict[str, datasets.Dataset]", self.eval_dataset)
        total, done = sum(map(len, validation.values())), 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            if self.tell is not None:
                self.tell(done, total)
            leave_if_asked()

        def leave_if_asked() -> None:
            self.stop.agree(self.args.device)
            self.stop.check()

        leave_if_asked()
        model, tokenizer = cast(PreTrainedModel, self.model), cast(PreTrainedTokenizerBase, self.processing_class)
        with same_randomness():
            nlls = {
                name: response_nll(model, tokenizer, rows, self.args.eval_batch_size, progress=count, shared=True)
                for name, rows in validation.items()
            }
            further = dict(self.also()) if self.also else {}
        metrics = {f"{metric_key_prefix}_loss": across_tasks(nlls).nll}
        metrics |= {f"{metric_key_prefix}_loss_{name}": nll.per_token for name, nll in nlls.items()}
        if not math.isfinite(metrics[f"{metric_key_prefix}_loss"]):
            step = self.state.global_step
            broken = [name for name, nll in nlls.items() if not math.isfinite(nll.per_token)]
            raise Diverged(step, f"the validation loss of {', '.join(broken)} after step {step} is no finite number")
        self.last_validation, self.validated_at = metrics, self.state.global_step
        self.log(metrics | further)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
