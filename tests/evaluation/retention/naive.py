"""Next-token distributions by their definition: one row at a time, from the logits of the whole row, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import PreTrainedModel


def log_probabilities(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """``[tokens, vocabulary]``: of what follows each token."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    largest = logits.max(axis=-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))


def bits_of(model: PreTrainedModel, ids: list[int], start: int) -> float:
    """``-log2 p(ids[start:] | ids[:start])``, token by token."""
    log_p = log_probabilities(model, ids)
    return -math.fsum(log_p[place - 1, ids[place]] for place in range(start, len(ids))) / math.log(2)


def is_greedy(model: PreTrainedModel, ids: list[int], start: int) -> bool:
    log_p = log_probabilities(model, ids)
    return all(int(log_p[place - 1].argmax()) == ids[place] for place in range(start, len(ids)))


def kl(base: np.ndarray, adapted: np.ndarray) -> float:
    """``sum_v p_base log(p_base / p_adapted)`` of two rows of log-probabilities."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(base, adapted, strict=True))
