"""The eager modulation under ``torch.utils.checkpoint``: only h and a are kept, and the rest is computed again.

A layer keeps its inputs for the backward pass, and the router's logits and probabilities for the balance loss. The
price is one more forward of the layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hycam.ops import eager
from hycam.ops.dispatch import Backend, Routing, register
from hycam.ops.weights import Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, Routing | None]:
    """As :func:`hycam.ops.eager.modulate`, to the bit, gradients included."""
    if not torch.is_grad_enabled():
        return eager.modulate(h, a, weights, noise, residual)

    def forward(h: Tensor, a: Tensor, noise: Tensor | None, residual: Tensor | None, *_: Tensor) -> tuple:
        return eager.modulate(h, a, weights, noise, residual)

    # The noise is an argument, so no generator's state needs restoring. The weights are arguments so that autograd
    # notices if one of them changes before the backward pass.
    inputs = (h, a, noise, residual, *weights.tensors())
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)


register(Backend("recompute", modulate))
