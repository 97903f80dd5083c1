"""The training rows of several tasks under one numbering, and what makes micro-batches of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

from hycam.labelled import IGNORED

_ROWS_AT_ONCE = 10_000


class PaddedCollator(DataCollatorForSeq2Seq):
    """Pads the rows of a micro-batch; ``task`` has the task of each and ``row`` its number.

    A process that gets no rows, because an epoch's last batch is smaller than the number of processes, still has to
    take part in the step: it gets one row of nothing but padding, with empty ``task`` and ``row``.
    """

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        if features:
            return super().__call__(features, return_tensors)
        nothing = torch.zeros(1, 2, dtype=torch.int64)
        return {
            "input_ids": nothing,
            "attention_mask": nothing.clone(),
            "labels": torch.full_like(nothing, IGNORED),
            "task": torch.zeros(0, dtype=torch.int64),
            "row": torch.zeros(0, dtype=torch.int64),
        }


class PackedCollator(DataCollatorWithFlattening):
    """Makes one packed row out of the rows of a micro-batch, each with ``input_ids``, ``labels``, ``task`` and ``row``.

    The batch holds, each ``[1, T]`` with T the tokens of all rows together:

    - ``input_ids``;
    - ``labels``, -100 on the first token of every example, which no token of its own precedes;
    - ``position_ids``, from 0 in every example;
    - ``task``, the task of each token;

    ``row``, ``[rows]``, the number of each; and ``use_cache``, which is False: with a cache, or with an attention mask,
    transformers does not look for packed examples in the positions. There is no padding, so there is no mask either.
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
    """The rows of the tasks one task after the other, each with ``input_ids``, ``labels``, its task and its number.

    Nothing is copied: a row is read from its own dataset when it is asked for.

    Args:
        tasks: the training rows of each task, with the columns ``input_ids`` and ``labels``, and ``row`` where
            :meth:`identity` is asked for.
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
        """A row's task and its identity there, which says where it comes from: ``"gsm8k train.jsonl:17"``."""
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
