"""All that multiplies the hidden state, as one function that keeps the hidden state once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class HiddenProducts(torch.autograd.Function):
    """``y_i = h W_i^T + b_i``, each product in the type of its weight.

    Ordinary autograd would keep a copy of ``h`` for every type that occurs (the router's is float32), and add one
    gradient of ``h`` per product. Here ``h`` is kept as it came, and the gradients are summed inside the products.

    Args:
        h: ``[tokens, d]``.
        maps: ``W_0, b_0, W_1, b_1, ...``: weights ``[n_i, d]``, and biases ``[n_i]`` of the same type or None.

    Returns:
        ``y_0, y_1, ...``, each ``[tokens, n_i]``.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, *maps: Any) -> tuple[Tensor, ...]:
        weights, biases = maps[::2], maps[1::2]
        ctx.save_for_backward(h, *weights)
        ctx.set_materialize_grads(False)
        with torch.autocast(h.device.type, enabled=False):
            typed = _in_types_of(h, weights)
            return tuple(
                F.linear(typed[weight.dtype], weight, bias) for weight, bias in zip(weights, biases, strict=True)
            )

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        h, *weights = ctx.saved_tensors
        for_h, *for_maps = ctx.needs_input_grad
        dh: Tensor | None = None
        gradients: list[Tensor | None] = []
        with torch.autocast(h.device.type, enabled=False):
            typed = _in_types_of(h, weights)
            for i, (dy, weight) in enumerate(zip(upstream, weights, strict=True)):
                for_weight, for_bias = for_maps[2 * i : 2 * i + 2]
                gradients.append(dy.T @ typed[weight.dtype] if for_weight and dy is not None else None)
                gradients.append(dy.sum(0) if for_bias and dy is not None else None)
                if dy is None or not for_h:
                    continue
                dh = dy @ weight if dh is None else torch.addmm(dh, dy.to(dh.dtype), weight.to(dh.dtype))
        return None if dh is None else dh.to(h.dtype), *gradients


def _in_types_of(h: Tensor, weights: Sequence[Tensor]) -> dict[torch.dtype, Tensor]:
    return {dtype: h.to(dtype) for dtype in {weight.dtype for weight in weights}}
