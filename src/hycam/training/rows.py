"""The training rows of several tasks under one numbering."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import DataCollatorForSeq2Seq

from hycam.labelled import IGNORED

_ROWS_AT_ONCE = 10_000


class PaddedCollator(DataCollatorForSeq2Seq):
    """Pads the rows of a micro-batch; ``task`` has the task of each and ``row`` its number.

    Of no rows at all, which a process gets when an epoch's last batch does not suffice for everyone, it makes one row
    without a label, so that the process can take part in what all of them compute; ``task`` and ``row`` are empty then.
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
