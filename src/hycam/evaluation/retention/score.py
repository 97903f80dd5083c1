"""The likelihood of continuations, and what it says of a task: bits per byte and accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.evaluation.batching import batches_by_length, pad
from hycam.evaluation.mode import evaluating
from hycam.evaluation.perplexity import logits_at
from hycam.evaluation.retention.continued import Continued, joined
from hycam.evaluation.retention.tasks import Item, RetentionTask
from hycam.labelled import IGNORED, labelled_positions
from hycam.tables import Tables

_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Likelihoods:
    """Of each of ``n`` continuations, given its context.

    ``bits`` is ``-log2 p`` (float64, ``[n]``); ``greedy`` whether each of its tokens is the likeliest one after those
    before it (bool, ``[n]``).
    """

    bits: np.ndarray
    greedy: np.ndarray


def likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Continued],
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Likelihoods:
    """Scores continuations as :func:`hycam.evaluation.perplexity.response_nll` does responses; no end token is scored.

    Args:
        model: any causal language model, with or without an adapter; its mode is put back afterwards.
        tokenizer: names the padding id, which is masked by position.
        rows: contexts with their continuations.
        batch_size: most rows in a batch; a batch has at most 2,048 tokens.
        progress: called after each batch with the number of rows in it.
    """
    Tables.of(model).check([row.ids for row in rows])
    nll = torch.zeros(len(rows), dtype=torch.float64)
    misses = torch.zeros(len(rows), dtype=torch.int64)
    with evaluating(model):
        for indices in batches_by_length([len(row.ids) for row in rows], batch_size, _BATCH_TOKENS):
            batch = [rows[index] for index in indices]
            labels = [[IGNORED] * start + ids[start:] for ids, start in batch]
            row, position, targets = labelled_positions(pad(labels, IGNORED, "right"))
            logits = logits_at(model, tokenizer, [ids for ids, _ in batch], row, position)
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            each = F.cross_entropy(wide, targets.to(wide.device), reduction="none")
            kept = torch.tensor(indices)[row]
            nll.index_add_(0, kept, each.cpu().double())
            misses.index_add_(0, kept, (wide.argmax(dim=-1).cpu() != targets).long())
            if progress is not None:
                progress(len(indices))
    return Likelihoods(nll.numpy() / math.log(2), (misses == 0).numpy())


@dataclass(frozen=True)
class Scores:
    """A model on a task, by row: ``bits`` and UTF-8 ``bytes`` of the gold continuation, and whether it is ``correct``.

    All are ``[rows]``; ``correct`` is None where the task or what was scored of it does not tell.
    """

    bits: np.ndarray
    bytes: np.ndarray
    correct: np.ndarray | None

    @property
    def per_byte(self) -> float:
        """Sum of the bits over the sum of the bytes: every byte weighs the same."""
        return float(self.bits.sum() / self.bytes.sum())

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else float(self.correct.mean())


class Choices:
    """The rows of a task as continuations to score, and what their likelihoods say of it.

    Args:
        task: says when a row is correct.
        items: its rows.
        tokenizer: see :func:`hycam.evaluation.retention.continued.joined`.
        wrong_choices: score them too, without which a choice cannot be told to be correct.
    """

    def __init__(
        self, task: RetentionTask, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, wrong_choices: bool
    ) -> None:
        self._task = task
        self._choices = [item.choices if wrong_choices else (item.choices[item.gold],) for item in items]
        self._gold = np.array([item.gold if wrong_choices else 0 for item in items])
        self._begins = np.array([0, *accumulate(map(len, self._choices))][:-1])  # of each row's choices, among all
        self._tells = task.correct == "greedy" or (task.correct == "choice" and wrong_choices)
        contexts = [item.context for item, choices in zip(items, self._choices, strict=True) for _ in choices]
        continuations = [choice for choices in self._choices for choice in choices]
        self.rows = joined(contexts, continuations, tokenizer)
        self._bytes = np.array([len(text.encode()) for text in continuations])

    def scores(self, found: Likelihoods) -> Scores:
        """What the likelihoods of ``rows`` come to."""
        gold = self._begins + self._gold
        bits, sizes = found.bits[gold], self._bytes[gold]
        if not self._tells:
            return Scores(bits, sizes, None)
        if self._task.correct == "greedy":
            return Scores(bits, sizes, found.greedy[gold])
        per_byte = np.split(found.bits / self._bytes, self._begins[1:])
        return Scores(bits, sizes, np.array([each.argmin() for each in per_byte]) == self._gold)
