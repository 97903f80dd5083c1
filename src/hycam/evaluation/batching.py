"""Batches of rows of similar length, padded on the left or on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase


def batches_by_length(lengths: Sequence[int], batch_size: int, batch_tokens: int | None = None) -> Iterator[list[int]]:
    """Row indices in batches, longest rows first, so that a lack of memory shows at once.

    Args:
        lengths: tokens in each row.
        batch_size: rows in a batch, at most.
        batch_tokens: tokens in a batch, at most, padding included; a longer row is a batch of its own.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        fitting = batch_size if batch_tokens is None else max(1, batch_tokens // max(1, int(sizes[order[start]])))
        stop = start + min(batch_size, fitting)
        yield order[start:stop].tolist()
        start = stop


def pad(rows: Sequence[Sequence[int]], value: int, side: Literal["left", "right"]) -> torch.Tensor:
    """Rows of token ids as one int64 tensor ``[rows, longest]``, padded with ``value`` on ``side``."""
    tensors = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)


def padding_mask(rows: Sequence[Sequence[int]], side: Literal["left", "right"]) -> torch.Tensor:
    """The attention mask of ``pad(rows, ...)``: 1 for tokens and 0 for padding, by position, ``[rows, longest]``."""
    return pad([[1] * len(row) for row in rows], 0, side)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the end token where there is no padding token, since padding is masked by position."""
    found = tokenizer.pad_token_id
    return tokenizer.eos_token_id if found is None else found
