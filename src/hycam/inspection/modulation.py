"""The factors by which a layer scales its attention output, token by token and feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hycam.errors import HycamError
from hycam.evaluation.mode import evaluating
from hycam.inspection.watch import active_modulation, attention_at, middle_layer, run_rows, watching_inputs
from hycam.ops import Modulation, modulate
from hycam.tuners.hycam.layer import HyCAMLayer


@dataclass(frozen=True)
class ModulationMap:
    """The factors of one layer minus 1, each ``[tokens, d]``: above 0 amplifies, below 0 suppresses.

    Attributes:
        layer: counted from 0.
        total: ``A_shared + sum_k p_k A_k`` (Eq. 11).
        shared: ``A_shared`` (Eq. 5); None without a shared module.
        specialized: ``sum_k p_k A_k`` (Eq. 6, 7 and 9), without noise; None without specialised modules.
    """

    layer: int
    total: np.ndarray
    shared: np.ndarray | None
    specialized: np.ndarray | None


def modulation_map(model: PreTrainedModel, ids: Sequence[int], layer: int | None = None) -> ModulationMap:
    """The modulation of one layer for one text.

    Args:
        model: a backbone with a HyCAM adapter; its mode is restored afterwards.
        ids: the text's token ids.
        layer: counted from 0; None means the middle one.

    Raises:
        HycamError: there is no such layer, HyCAM does not adapt it, or the text is empty.
    """
    layer = middle_layer(model) if layer is None else layer
    module = attention_at(model, layer)
    weights = active_modulation(module)
    if weights is None or not isinstance(module, HyCAMLayer):
        raise HycamError(f"Layer {layer} has no active HyCAM adapter, so there is no modulation to show.")
    if not ids:
        raise HycamError("The text is empty: there is no token to show.")
    seen: list[Tensor] = []
    with evaluating(model), watching_inputs([module], lambda _, h: seen.append(h)):
        run_rows(model, [ids], padding=0)
        h = seen[0]
        shared = None if weights.shared is None else _of(h, Modulation(weights.shared, None, None))
        routed = None if weights.router is None else _of(h, Modulation(None, weights.specialized, weights.router))
        return ModulationMap(layer, _of(h, weights), shared, routed)


def _of(h: Tensor, weights: Modulation) -> np.ndarray:
    """m ``[tokens, d]`` of hidden states ``[1, tokens, d]``: ``a (1 + m) + m r`` at a = 0 and r = 1."""
    zero = torch.zeros_like(h, dtype=torch.float32)
    m, _ = modulate(h, zero, weights, None, residual=torch.ones_like(zero))
    return m[0].double().cpu().numpy()
