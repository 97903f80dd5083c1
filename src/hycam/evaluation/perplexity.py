"""Perplexity of the responses: the likelihood that a model gives to each row's response and end token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam import processes
from hycam.errors import HycamError
from hycam.evaluation.batching import batches_by_length, pad, padding_id, padding_mask
from hycam.evaluation.mode import evaluating
from hycam.labelled import IGNORED, head_at, labelled_positions
from hycam.tables import Tables


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihood of each row's labelled tokens, in nats.

    ``rows`` are the rows' identities, ``nll`` the sum over a row's labelled tokens (float64, ``[rows]``) and
    ``tokens`` their number (int64, ``[rows]``). Kept row by row, so that two models can be compared on the same rows.
    """

    rows: list[str]
    nll: np.ndarray
    tokens: np.ndarray

    @property
    def per_token(self) -> float:
        """Sum of the NLL over all rows, divided by the number of labelled tokens (each token weighs the same)."""
        return float(self.nll.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """``exp(per_token)``; infinite where that is beyond a float."""
        return _exp(self.per_token)


def across_tasks(tasks: Mapping[str, NLL]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of at least one task as ``(macro, pooled)``.

    ``macro`` weighs every task the same: ``nll`` is the mean over tasks of the NLL per token; ``perplexity``, the
    headline, its ``exp``, the geometric mean of the tasks' perplexities; ``perplexity_mean`` their arithmetic mean,
    which one hard task can dominate. ``pooled`` (``nll``, ``perplexity``) weighs every token the same.
    """
    nll = float(np.mean([task.per_token for task in tasks.values()]))
    mean = float(np.mean([task.perplexity for task in tasks.values()]))
    pooled = float(sum(task.nll.sum() for task in tasks.values()) / sum(task.tokens.sum() for task in tasks.values()))
    macro = {"perplexity": _exp(nll), "perplexity_mean": mean, "nll": nll}
    return macro, {"perplexity": _exp(pooled), "nll": pooled}


def response_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    batch_size: int,
    batch_tokens: int = 2048,
    progress: Callable[[int], None] | None = None,
    shared: bool = False,
) -> NLL:
    """NLL of every row's labelled tokens (its response and end token) given what stands before them.

    The logits come from the model's own forward (scaling and soft-capping included), but for the labelled positions
    only: the others are removed before the output embedding, so that no ``[batch, length, vocabulary]`` tensor is made.
    The log-softmax is at least float32, sums are float64. Batches are padded on the right, where a causal model
    cannot see the padding, so the result depends on their make-up only by rounding.

    Args:
        model: any causal language model, with or without an adapter; its mode is restored afterwards.
        tokenizer: names the padding id, which is masked by position.
        rows: columns ``input_ids``, ``labels`` (-100 where not scored) and ``row`` (identity). A label on a row's
            first token has nothing before it and is not scored.
        batch_size: rows in a batch, at most.
        batch_tokens: tokens in a batch, at most. That bounds the logits: 2,048 with a vocabulary of 49,152 are 0.4 GB.
        progress: called after each batch with the number of rows in it.
        shared: whether the processes of the group divide the batches; each gets the whole result. A process without
            a batch repeats one, since a sharded model runs on all processes or on none.

    Raises:
        HycamError: no token is labelled, a row exceeds the model's tables, or the model makes its logits without its
            output embedding.
    """
    input_ids = rows["input_ids"][:]
    Tables.of(model).check(input_ids)
    lengths = list(map(len, input_ids))
    nll = torch.zeros(len(lengths), dtype=torch.float64)
    tokens = torch.zeros(len(lengths), dtype=torch.int64)
    with evaluating(model):
        batches = list(batches_by_length(lengths, batch_size, batch_tokens))
        world_size, rank = (processes.world_size(), processes.rank()) if shared else (1, 0)
        for start in range(0, len(batches), world_size):
            indices = batches[min(start + rank, len(batches) - 1)]
            batch = rows[indices]
            row, targets, logits = labelled_logits(model, tokenizer, batch["input_ids"], batch["labels"])
            each = F.cross_entropy(logits, targets, reduction="none")
            if start + rank < len(batches):
                kept = torch.tensor(indices)[row]
                nll.index_add_(0, kept, each.cpu().double())
                tokens.index_add_(0, kept, torch.ones_like(kept))
            if progress is not None:
                progress(sum(map(len, batches[start : start + world_size])))
    if shared:
        nll, tokens = processes.all_reduce(nll, model.device), processes.all_reduce(tokens, model.device)
    if tokens.sum() == 0:
        raise HycamError(f"None of the {len(lengths)} rows to evaluate has a labelled token to score.")
    return NLL(rows=list(rows["row"]), nll=nll.numpy(), tokens=tokens.numpy())


def labelled_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_ids: list[list[int]], labels: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The labelled tokens of a batch: ``(row, target, logits)``, of shapes ``[n]``, ``[n]`` and ``[n, vocabulary]``.

    The logits are those of :func:`logits_at`, and the targets are on their device.
    """
    row, position, targets = labelled_positions(pad(labels, IGNORED, "right"))
    logits = logits_at(model, tokenizer, input_ids, row, position)
    return row, targets.to(logits.device), logits


def logits_at(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: list[list[int]],
    row: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """The model's logits at ``n`` positions of a batch, in at least float32: ``[n, vocabulary]``.

    Raises:
        HycamError: the model makes its logits without its output embedding.
    """
    with head_at(model, row, position):
        logits = model(
            input_ids=pad(input_ids, padding_id(tokenizer), "right").to(model.device),
            attention_mask=padding_mask(input_ids, "right").to(model.device),
            use_cache=False,
        ).logits
    if logits.shape[:2] != (1, len(row)):
        raise HycamError(f"{type(model).__name__} makes its logits without its output embedding; it cannot be scored.")
    return logits[0].to(torch.promote_types(logits.dtype, torch.float32))


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
