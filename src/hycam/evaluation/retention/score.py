"""How likely a model finds continuations (bits per byte, accuracy), and how far its distributions moved (KL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.tokens import encode_prompts, encode_texts
from hycam.evaluation.batching import batches_by_length, pad
from hycam.evaluation.mode import evaluating
from hycam.evaluation.perplexity import labelled_logits, logits_at
from hycam.evaluation.retention.tasks import Item, RetentionTask
from hycam.labelled import IGNORED
from hycam.tables import Tables

AS_IT_IS = "{instruction}"
"""The prompt form of a text with nothing around it."""

Base = Callable[[], AbstractContextManager[PreTrainedModel]]
"""Gives the backbone for the length of a block, in which the adapted model may not be usable."""

_BATCH_TOKENS = 2048
# KL takes the logits of every position, of two models: with a vocabulary of 49,152 some 0.1 GB each, and as much again
# for the terms.
_KL_BATCH_TOKENS = 512


class Continued(NamedTuple):
    """The ``ids`` of a context and its continuation, which begins at ``start``."""

    ids: list[int]
    start: int


def joined(
    contexts: Sequence[str], continuations: Sequence[str], tokenizer: PreTrainedTokenizerBase, style: str = AS_IT_IS
) -> list[Continued]:
    """Context and continuation tokenised as one text, as a model reads them.

    The space between the two belongs to the continuation, since nearly every tokenizer (byte-level or SentencePiece)
    begins a token there; tokenised apart, SentencePiece would add a second one. If a token still spans the boundary,
    the continuation begins with that token.

    The tokenizer's special tokens go before a context and never after a continuation. ``style`` is ``"chat"`` if the
    contexts contain them already.
    """
    before = encode_prompts(list(contexts), tokenizer, style)
    whole = encode_texts([a + b for a, b in zip(contexts, continuations, strict=True)], tokenizer, style)
    return [Continued(ids, _shared(first, ids)) for first, ids in zip(before, whole, strict=True)]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def choices_of(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase) -> list[Continued]:
    """Every choice of every item after its context, in order."""
    contexts = [item.context for item in items for _ in item.choices]
    return joined(contexts, [choice for item in items for choice in item.choices], tokenizer)


class Likelihoods(NamedTuple):
    """Of each of ``n`` continuations, given its context.

    ``bits`` is ``-log2 p`` (float64, ``[n]``); ``greedy`` says whether each of its tokens is the likeliest one after
    those before it (bool, ``[n]``).
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
        model: any causal language model, with or without an adapter; its mode is restored afterwards.
        tokenizer: names the padding id, which is masked by position.
        rows: contexts with their continuations.
        batch_size: rows in a batch, at most; a batch has at most 2,048 tokens.
        progress: called after each batch with the number of rows in it.
    """
    Tables.of(model).check([row.ids for row in rows])
    nll = torch.zeros(len(rows), dtype=torch.float64)
    misses = torch.zeros(len(rows), dtype=torch.int64)
    with evaluating(model):
        for indices in batches_by_length([len(row.ids) for row in rows], batch_size, _BATCH_TOKENS):
            batch = [rows[index] for index in indices]
            labels = [[IGNORED] * start + ids[start:] for ids, start in batch]
            row, targets, logits = labelled_logits(model, tokenizer, [ids for ids, _ in batch], labels)
            kept = torch.tensor(indices)[row]
            nll.index_add_(0, kept, F.cross_entropy(logits, targets, reduction="none").cpu().double())
            misses.index_add_(0, kept, (logits.argmax(dim=-1) != targets).cpu().long())
            if progress is not None:
                progress(len(indices))
    return Likelihoods(nll.numpy() / math.log(2), (misses == 0).numpy())


@dataclass(frozen=True)
class Scores:
    """A model on a task, by row: ``bits`` and UTF-8 ``bytes`` of the gold continuation, and whether it is ``correct``.

    All are ``[rows]``; ``correct`` is None where the task, or the scored part of it, cannot tell.
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


def scores_of(task: RetentionTask, items: Sequence[Item], found: Likelihoods) -> Scores:
    """What the likelihoods of the items' choices, in the order of :func:`choices_of`, come to."""
    sizes = np.array([len(choice.encode()) for item in items for choice in item.choices])
    begins = np.cumsum([0, *(len(item.choices) for item in items)])[:-1]
    gold = np.array([item.gold for item in items])
    correct = None
    if task.correct == "greedy":
        correct = found.greedy[begins + gold]
    elif task.correct == "choice" and any(len(item.choices) > 1 for item in items):
        per_byte = np.split(found.bits / sizes, begins[1:])
        correct = np.array([each.argmin() for each in per_byte]) == gold
    return Scores(found.bits[begins + gold], sizes[begins + gold], correct)


def divergence(
    model: PreTrainedModel,
    base: Base | None,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Continued],
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """``mean_t sum_v p_base(v | t) log(p_base(v | t) / p_adapted(v | t))``, batch by batch, in at least float32.

    In each row it is taken after the token before ``start`` and after every later one, including the last.

    Args:
        model: the adapted model.
        base: gives the backbone; None where ``model`` is the backbone, which then runs once.
        tokenizer: names the padding id, which is masked by position.
        rows: token ids, each with at least one before ``start``.
        batch_size: rows in a batch, at most; a batch has at most 512 tokens, or one row.
        progress: called after each batch with the number of rows in it.

    Returns:
        ``mean`` in nats over ``tokens`` next-token distributions, on ``texts`` texts.
    """
    Tables.of(model).check([row.ids for row in rows])
    total, tokens = 0.0, 0
    with evaluating(model):
        for indices in batches_by_length([len(row.ids) for row in rows], batch_size, _KL_BATCH_TOKENS):
            batch = [rows[index] for index in indices]
            ids = [row.ids for row in batch]
            compared = [[0] * (row.start - 1) + [1] * (len(row.ids) - row.start + 1) for row in batch]
            row, position = pad(compared, 0, "right").nonzero(as_tuple=True)
            ours = theirs = logits_at(model, tokenizer, ids, row, position).log_softmax(dim=-1)
            if base is not None:
                with base() as backbone, evaluating(backbone):
                    theirs = logits_at(backbone, tokenizer, ids, row, position).log_softmax(dim=-1)
            total += F.kl_div(ours, theirs, log_target=True, reduction="none").sum(dim=-1).double().sum().item()
            tokens += len(row)
            if progress is not None:
                progress(len(indices))
    return {"mean": total / tokens, "tokens": tokens, "texts": len(rows)}
