"""KL(base || adapted): how far an adapted model's next-token distributions have moved from the backbone's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.evaluation.batching import batches_by_length, pad
from hycam.evaluation.mode import evaluating
from hycam.evaluation.perplexity import logits_at
from hycam.evaluation.retention.base import Base
from hycam.evaluation.retention.continued import Continued
from hycam.tables import Tables
from hycam.tuners.hycam import packed

# Every position has its logits, of two models: with a vocabulary of 49,152 some 0.1 GB each, and as much for the terms.
_BATCH_TOKENS = 512


@dataclass(frozen=True)
class Divergence:
    """``mean`` over ``tokens`` next-token distributions of KL(base || adapted), in nats, on ``texts`` texts."""

    mean: float
    tokens: int
    texts: int


def divergence(
    model: PreTrainedModel,
    base: Base | None,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Continued],
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Divergence:
    """``mean_t sum_v p_base(v | t) log(p_base(v | t) / p_adapted(v | t))``, batch by batch, in at least float32.

    Of each row it is taken after the token before ``start`` and after every later one, the last included: what comes
    first, each token after it, and whether the text ends there.

    Args:
        model: the adapted model.
        base: gives the backbone; None where ``model`` is the backbone, which then runs once.
        tokenizer: names the padding id, which is masked by position.
        rows: token ids, each with at least one before ``start``.
        batch_size: most rows in a batch; a batch has at most 512 tokens, or one row.
        progress: called after each batch with the number of rows in it.
    """
    Tables.of(model).check([row.ids for row in rows])
    total, tokens = 0.0, 0
    with packed(model):  # once for all batches
        for indices in batches_by_length([len(row.ids) for row in rows], batch_size, _BATCH_TOKENS):
            batch = [rows[index] for index in indices]
            ids = [row.ids for row in batch]
            compared = [[0] * (row.start - 1) + [1] * (len(row.ids) - row.start + 1) for row in batch]
            row, position = pad(compared, 0, "right").nonzero(as_tuple=True)
            ours = _log_probabilities(model, tokenizer, ids, row, position)
            theirs = ours
            if base is not None:
                with base() as backbone:
                    theirs = _log_probabilities(backbone, tokenizer, ids, row, position)
            total += F.kl_div(ours, theirs, log_target=True, reduction="none").sum(dim=-1).double().sum().item()
            tokens += len(row)
            if progress is not None:
                progress(len(indices))
    return Divergence(total / tokens, tokens, len(rows))


def _log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    row: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """``[positions, vocabulary]``."""
    with evaluating(model):
        logits = logits_at(model, tokenizer, ids, row, position)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
