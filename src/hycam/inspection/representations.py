"""What an adapter does to a layer's values: outputs of its value projection with the adapter on and off (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hycam.errors import HycamError
from hycam.evaluation.mode import evaluating
from hycam.inspection.watch import attention_at, middle_layer, response_batches

NEIGHBOURS = 10
_PERPLEXITY = 30.0

# One product makes queries, keys and values in this order, the values as wide as the keys. Architectures that mix them
# head by head (GPT-NeoX, Falcon, GPT-BigCode) or compress them (DeepSeek) are not supported.
_FUSED = {"gpt2": "c_attn", "mpt": "Wqkv", "phi3": "qkv_proj"}


class _Seen(Exception):
    """Ends a forward at the layer of interest, since later layers would only take time."""


@dataclass(frozen=True)
class Representations:
    """Values of the same places with the adapter on and off.

    Attributes:
        layer: counted from 0.
        tasks: the task of each place, ``[n]``.
        on, off: with and without the adapter, ``[n, width]``.
    """

    layer: int
    tasks: list[str]
    on: np.ndarray
    off: np.ndarray


@dataclass(frozen=True)
class Projection:
    """One plane for both conditions, and the distances of neighbours before the projection.

    Attributes:
        on, off: ``[n, 2]``.
        distance_on, distance_off: mean distance to the nearest neighbours of the same condition, in standardised units.
    """

    on: np.ndarray
    off: np.ndarray
    distance_on: float
    distance_off: float


def representations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Mapping[str, Dataset],
    rows: int,
    layer: int | None = None,
    per: Literal["row", "token"] = "row",
) -> Representations:
    """The values of the responses of the first ``rows`` rows of each task, with and without the adapter.

    Args:
        model: a backbone with an adapter of any method; its mode is restored afterwards.
        tokenizer: gives the padding id.
        parts: the rows of each task, with ``input_ids`` and ``labels``.
        rows: the number of rows of each task.
        layer: counted from 0; None means the middle one. Layer 0 is refused: no adapter has affected its input.
        per: whether a place is a row (the mean over its response tokens) or a token.

    Raises:
        HycamError: there is no adapter, no such layer, or no value projection in this architecture.
    """
    if not isinstance(model, PeftModel):
        raise HycamError(
            "There is no adapter to switch off: representations compare a backbone with and without its adapter."
        )
    layer = middle_layer(model) if layer is None else layer
    if layer == 0:
        raise HycamError("No adapter has affected the input of layer 0: choose a layer from 1 on.")
    projection, values = value_projection(attention_at(model, layer), model.config.get_text_config())
    tasks: list[str] = []
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(values(output))
        raise _Seen

    hook = projection.register_forward_hook(keep)
    try:
        for task, dataset in parts.items():
            for run, is_response in response_batches(dataset, rows, tokenizer):
                for is_on in (True, False):
                    with evaluating(model), nullcontext() if is_on else model.disable_adapter(), suppress(_Seen):
                        run(model)
                    places = _places(seen.pop(), is_response, per)
                    found[is_on].append(places)
                tasks += [task] * len(places)
    finally:
        hook.remove()
    return Representations(layer, tasks, np.concatenate(found[True]), np.concatenate(found[False]))


def project(found: Representations, seed: int = 0) -> Projection:
    """One t-SNE of both conditions together, so that their places can be compared, and the distances of neighbours.

    The vectors of both are standardised together, feature by feature. The distance is the mean over all places of the
    mean distance to the ``NEIGHBOURS`` nearest places of the same condition, between the standardised vectors, since a
    t-SNE does not preserve distances. It measures the spread of the values, not how well they separate the tasks.

    Args:
        found: from :func:`representations`.
        seed: of the t-SNE.

    Raises:
        HycamError: there are too few places, or scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise HycamError("A t-SNE needs scikit-learn: pip install 'hycam[study]'.") from error
    count = len(found.tasks)
    if count <= NEIGHBOURS:
        raise HycamError(
            f"{count} representations are too few for {NEIGHBOURS} neighbours: use more rows of each task."
        )
    both = StandardScaler().fit_transform(np.concatenate([found.on, found.off]))
    plane = TSNE(init="pca", perplexity=min(_PERPLEXITY, (2 * count - 1) / 3), random_state=seed).fit_transform(both)
    distances = []
    for condition in (both[:count], both[count:]):
        neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(condition)
        distances.append(float(neighbours.kneighbors()[0].mean()))  # without a query, no place is its own neighbour
    return Projection(plane[:count], plane[count:], *distances)


def _places(values: Tensor, is_response: Tensor, per: str) -> np.ndarray:
    """Values ``[batch, seq, width]`` of the responses: ``[batch, width]``, or ``[tokens, width]``."""
    wide, chosen = values.double().cpu(), is_response
    if per == "token":
        return wide[chosen].numpy()
    sums = torch.where(chosen[..., None], wide, 0).sum(dim=1)
    return (sums / chosen.sum(dim=1, keepdim=True)).numpy()


def value_projection(attention: nn.Module, config: PreTrainedConfig) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that computes an attention module's values, and a function that extracts them from its output.

    Args:
        attention: an attention module, adapted or not.
        config: the backbone's (of its text part).

    Raises:
        HycamError: the architecture has no value projection, and the place of its values is unknown.
    """
    for name, module in attention.named_modules():
        own_name = name.rpartition(".")[2]
        if own_name == "v_proj":
            return module, lambda output: output
        if own_name == _FUSED.get(config.model_type):
            return module, lambda output: output[..., (output.shape[-1] + config.hidden_size) // 2 :]
    linear = {name.rpartition(".")[2] for name, module in attention.named_modules() if isinstance(module, nn.Linear)}
    raise HycamError(
        f"It is not known where {config.model_type} computes its values: its attention has "
        f"{', '.join(sorted(linear)) or 'no linear layer'} and no v_proj. Representations work for architectures with "
        f"a value projection, and for {', '.join(sorted(_FUSED))}."
    )
