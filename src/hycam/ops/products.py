"""All products of the hidden state as one function that keeps it once, and the types of products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.routing import at_least_float32
from hycam.ops.weights import Dense, LowRank, Router

_Part = TypeVar("_Part", Dense, LowRank, Dense | LowRank | None)


def product_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which products with weights of ``dtype`` are taken: autocast's where it is on, but not of float64."""
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        return torch.get_autocast_dtype(device.type)
    return dtype


def in_product_type(part: _Part) -> _Part:
    """``part`` with every tensor in the :func:`product_type` of the widest of them."""
    if part is None:
        return part
    tensors = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    typed = {name: tensor.to(product_type(widest, tensor.device)) for name, tensor in tensors.items()}
    fields: dict[str, Any] = {**vars(part), **typed}
    return type(part)(**fields)


def router_map(router: Router) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of Eq. 8 in at least float32, in which the router runs whatever the type of the rest."""
    return at_least_float32(router.weight), None if router.bias is None else at_least_float32(router.bias)


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
                dh = dy @ weight if dh is None else dh.addmm_(dy.to(dh.dtype), weight.to(dh.dtype))
        return None if dh is None else dh.to(h.dtype), *gradients


def _in_types_of(h: Tensor, weights: Sequence[Tensor]) -> dict[torch.dtype, Tensor]:
    return {dtype: h.to(dtype) for dtype in {weight.dtype for weight in weights}}
