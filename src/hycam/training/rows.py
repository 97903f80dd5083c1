"""The training rows of several tasks under one numbering, their micro-batches, and how many steps those make."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, TrainingArguments

from hycam import processes
from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.labelled import IGNORED
from hycam.training.recipe import Recipe

_ROWS_AT_ONCE = 10_000


class PaddedCollator(DataCollatorForSeq2Seq):
    """Pads the rows of a micro-batch; ``task`` has the task of each and ``row`` its number.

    A process without rows, because an epoch's last batch is smaller than the number of processes, still takes part in
    the step: it gets one row without a label, with empty ``task`` and ``row``.
    """

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        if features:
            return super().__call__(features, return_tensors)
        nothing = torch.zeros(1, 2, dtype=torch.int64)
        return {
            "input_ids": nothing,
            "attention_mask": torch.ones_like(nothing),
            "labels": torch.full_like(nothing, IGNORED),
            "task": torch.zeros(0, dtype=torch.int64),
            "row": torch.zeros(0, dtype=torch.int64),
        }


class PackedCollator(DataCollatorWithFlattening):
    """Packs the rows of a micro-batch, each with ``input_ids``, ``labels``, ``task`` and ``row``, into one row.

    Of shape ``[1, T]`` with T tokens in all: ``input_ids``; ``labels``, -100 on the first token of every example;
    ``position_ids``, from 0 in every example; ``task``, of each token. ``row``, ``[rows]``, has their numbers.

    There is no attention mask, and ``use_cache`` is False: with either of them transformers does not recognise packed
    examples by their positions.
    """

    def __call__(
        self, features: list[dict[str, Any]], return_tensors: str | None = None, separator_id: int | None = None
    ) -> dict[str, Any]:
        batch = super().__call__(features, return_tensors, separator_id)
        task = torch.tensor([row["task"] for row in features])
        length = torch.tensor([len(row["input_ids"]) for row in features])
        row = torch.tensor([row["row"] for row in features])
        return {**batch, "task": task.repeat_interleave(length).unsqueeze(0), "row": row, "use_cache": False}


class MixedRows(Dataset[dict[str, Any]]):
    """The rows of one task after the other, each with ``input_ids``, ``labels``, its task and its number.

    Args:
        tasks: the training rows of each task, with the columns ``input_ids`` and ``labels``, and ``row`` for
            :meth:`identity`. They are not copied.
    """

    def __init__(self, tasks: Mapping[str, datasets.Dataset]) -> None:
        self.tasks = tuple(tasks)
        self.sizes = {name: len(rows) for name, rows in tasks.items()}
        self._whole = list(tasks.values())
        self._parts = [rows.select_columns(["input_ids", "labels"]) for rows in tasks.values()]
        self._starts = (np.cumsum([0, *self.sizes.values()])[:-1]).tolist()

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = bisect_right(self._starts, index) - 1
        return {**self._parts[task][index - self._starts[task]], "task": task, "row": index}

    def task(self, index: int) -> str:
        """The name of a row's task."""
        return self.tasks[bisect_right(self._starts, index) - 1]

    def identity(self, index: int) -> str:
        """A row's task and source: ``"gsm8k train.jsonl:17"``."""
        task = bisect_right(self._starts, index) - 1
        return f"{self.tasks[task]} {self._whole[task][index - self._starts[task]]['row']}"

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: int64 ``[rows]``."""
        counted = [
            batch["input_ids"].combine_chunks().value_lengths().to_numpy()
            for part in self._parts
            for batch in part.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
        ]
        return np.concatenate(counted).astype(np.int64)


def load_batches(
    rows: MixedRows, batches: Iterable[list[int]], collate: Callable[..., Any], arguments: TrainingArguments
) -> DataLoader[Any]:
    """Loads the micro-batches with these row numbers."""
    return DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=arguments.dataloader_num_workers,
        pin_memory=arguments.dataloader_pin_memory and arguments.device.type == "cuda",
        prefetch_factor=arguments.dataloader_prefetch_factor,
    )


@dataclass(frozen=True)
class Counts:
    """The counts of one step, over all processes.

    Attributes:
        labelled: tokens with a loss.
        tokens: without padding.
        size: tokens with padding.
        rows: of each task.
    """

    labelled: int
    tokens: int
    size: int
    rows: dict[str, int]

    @classmethod
    def of(
        cls, micro_batches: Sequence[dict[str, Any]], numbers: Sequence[Tensor], rows: MixedRows, device: torch.device
    ) -> Counts:
        """Counts this process's micro-batches, whose rows have these numbers, and adds those of the other processes."""
        own = [0, 0, 0]
        for batch in micro_batches:
            own[0] += int((batch["labels"][..., 1:] != IGNORED).sum())
            own[2] += batch["input_ids"].numel()
            if batch["task"].numel():  # else it is a batch without rows
                # A packed row has neither padding nor a mask.
                own[1] += (
                    int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
                )
        names = [rows.task(row) for row in torch.cat(list(numbers)).tolist()]
        all_of_them = torch.tensor([*own, *map(names.count, rows.tasks)])
        labelled, tokens, size, *of_tasks = processes.all_reduce(all_of_them, device).tolist()
        return cls(labelled, tokens, size, dict(zip(rows.tasks, of_tasks, strict=True)))


def identities(rows: MixedRows, numbers: Sequence[Tensor], losses: Sequence[Tensor]) -> list[str]:
    """The rows of a step on all processes; only those of micro-batches with a non-finite loss, if there are any."""
    batches = [
        (math.isfinite(loss), [rows.identity(row) for row in of_batch.tolist()])
        for loss, of_batch in zip(torch.stack(list(losses)).tolist(), numbers, strict=True)
    ]
    if processes.world_size() > 1:
        batches = gather_object(batches)
    broken = [names for is_finite, names in batches if not is_finite]
    return list(dict.fromkeys(chain.from_iterable(broken or [names for _, names in batches])))


def batches_of(recipe: Recipe, rows: MixedRows, world_size: int = 1, rank: int = 0) -> Batches:
    """The micro-batches of one process of a run, in their order."""
    data = recipe.data
    return Batches(
        Mixture(data.mixture, rows.sizes, recipe.training.seed),
        rows.lengths,
        recipe.training.batch_size,
        data.max_length,
        packing=data.packing,
        group_by_length=data.group_by_length,
        processes=world_size,
        process=rank,
    )


def steps_of(recipe: Recipe, batches: Batches) -> int:
    """Optimizer steps of the whole run."""
    settings = recipe.training
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, math.ceil(settings.epochs * steps_in_epoch(recipe, batches)))


def steps_in_epoch(recipe: Recipe, batches: Batches) -> int:
    """Optimizer steps of one pass; the last may have fewer micro-batches."""
    return max(1, -(-len(batches) // recipe.training.gradient_accumulation))
