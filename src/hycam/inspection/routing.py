"""Which specialised modules the router chooses by task and layer, and how much that says about the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import entropy
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.attention import find_attention_modules
from hycam.evaluation.mode import evaluating
from hycam.inspection.watch import active_modulation, response_batches, run_rows, watching_inputs
from hycam.ops.routing import route, router_logits
from hycam.ops.weights import Router
from hycam.tuners.hycam.layer import HyCAMLayer


def routing_by_task(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, Dataset], rows: int
) -> dict[str, Any] | None:
    """The mean routing probabilities of each task in each layer, by the noise-free rule of evaluation (Eq. 9).

    Means are over all response tokens, end tokens included, of the first ``rows`` rows of each task, so longer
    responses weigh more.

    Args:
        model: a backbone with or without an adapter; its mode is restored afterwards.
        tokenizer: gives the padding id.
        parts: the rows of each task, with ``input_ids`` and ``labels``.
        rows: the number of rows of each task.

    Returns:
        ``{"tasks": {task: {"tokens": n, "weights": [[K] for each routed layer]}}, "mutual_information": [bits for each
        routed layer], "layers": n, "experts": K}``; None for a model without a HyCAM router.
    """
    routed = _routed_layers(model)
    if not routed:
        return None
    found = {}
    with evaluating(model):
        for task, dataset in parts.items():
            found[task] = _mean_over_responses(model, routed, response_batches(dataset, rows, tokenizer))
    by_layer = np.stack([weights for _, weights in found.values()], axis=1)  # [layers, tasks, K]
    return {
        "tasks": {task: {"tokens": tokens, "weights": weights.tolist()} for task, (tokens, weights) in found.items()},
        "mutual_information": [mutual_information(of_layer) for of_layer in by_layer],
        "layers": by_layer.shape[0],
        "experts": by_layer.shape[2],
    }


def routing_of_text(model: PreTrainedModel, ids: Sequence[int]) -> np.ndarray | None:
    """The routing probabilities of every token of a text, ``[layers, tokens, K]``, as in evaluation.

    The model's mode is restored afterwards; None for a model without a HyCAM router.
    """
    routed = _routed_layers(model)
    if not routed:
        return None
    found: dict[int, np.ndarray] = {}

    def keep(place: int, h: Tensor) -> None:
        found[place] = _probabilities(h[0], routed[place][1]).double().cpu().numpy()

    with evaluating(model), watching_inputs([layer for layer, _ in routed], keep):
        run_rows(model, [ids], padding=0)
    return np.stack([found[place] for place in range(len(routed))])


def mutual_information(weights: np.ndarray) -> float:
    """I(task; expert) in bits of the joint distribution ``q(t, k) = p_k(t) / T``, all tasks with the same weight.

    It is 0 if all tasks are routed alike, and at most log2 of the smaller of the numbers of tasks and experts. It only
    uses each task's mean probabilities (``weights``, ``[T, K]``), not how routing differs between a task's tokens.
    """
    between = entropy(weights.mean(axis=0), base=2) - entropy(weights, base=2, axis=1).mean()
    return max(0.0, float(between))  # rounding can leave it below


def _routed_layers(model: PreTrainedModel) -> list[tuple[HyCAMLayer, Router]]:
    found = []
    for name in find_attention_modules(model):
        layer = model.get_submodule(name)
        weights = active_modulation(layer)
        if isinstance(layer, HyCAMLayer) and weights is not None and weights.router is not None:
            found.append((layer, weights.router))
    return found


def _mean_over_responses(
    model: PreTrainedModel,
    routed: list[tuple[HyCAMLayer, Router]],
    batches: Iterable[tuple[Callable[[PreTrainedModel], None], Tensor]],
) -> tuple[int, np.ndarray]:
    """The number of response tokens and the mean of their probabilities, ``[layers, K]``."""
    sums = torch.zeros(len(routed), routed[0][1].weight.shape[0], dtype=torch.float64)
    tokens = 0
    for run, is_response in batches:
        tokens += int(is_response.sum())

        def keep(place: int, h: Tensor, chosen: Tensor = is_response) -> None:
            p = _probabilities(h[chosen.to(h.device)], routed[place][1])
            sums[place] += p.double().sum(dim=0).cpu()

        with watching_inputs([layer for layer, _ in routed], keep):
            run(model)
    return tokens, (sums / tokens).numpy()


def _probabilities(h: Tensor, router: Router) -> Tensor:
    """p of ``[n, d]`` hidden states, ``[n, K]``, without noise."""
    return route(router_logits(h, router), None, router)
