"""The modulation with little memory: of all that is as large as the hidden state only h and a are kept.

Kept for the backward pass are h, a, the rank-r activations and p. The pre-activations, K + 1 times the hidden state,
are computed again, some hundred tokens at a time, so that there is never more than a chunk of one of them. The price is
the shared map and the maps back to d once more: with K = 5 and r = 64 a quarter of the multiplications at d = 576.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hycam.errors import HycamError
from hycam.ops.lean_maps import DenseMap, DenseMaps, LowRankMaps
from hycam.ops.mixing import chunks, common_type, mix, mix_gradients, rows_of
from hycam.ops.products import product_type
from hycam.ops.routing import route, router_logits
from hycam.ops.weights import Dense, LowRank, Modulation, Router

NO_SECOND_DERIVATIVE = (
    'The backend "lean" has no second derivatives, but gradients were asked for with `create_graph=True`. Leave that '
    'out, or use the backend "eager", which can be differentiated twice.'
)


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    The products have the type of the weights, or that of autocast; everything after them is at least float32, and the
    result has the type of ``a``. The router and p are ordinary operations, whose gradients flow on.

    Raises:
        HycamError: in the backward pass, if the gradients are to be differentiated again.
    """
    routing = p = None
    if weights.router is not None and weights.specialized is not None:
        logits = _RouterLogits.apply(h, weights.router.weight, weights.router.bias)
        p = route(logits, noise, weights.router)
        routing = (p, logits)
    shared, specialized = _part(weights.shared, DenseMap), _part(weights.specialized, DenseMaps)
    parts = (shared[0], specialized[0])
    tensors = (*shared[1], *specialized[1])
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors if tensor is not None))
    return _Modulate.apply(parts, product_type(widest, h.device), h, a, residual, p, *tensors), routing


class _Part(NamedTuple):
    """The shared or the specialised modules without their tensors: how many these are, and what is made of them."""

    size: int
    weights: Callable[..., Dense | LowRank]
    maps: type


def _part(weights: Dense | LowRank | None, dense: type) -> tuple[_Part | None, tuple[Tensor | None, ...]]:
    """The part, and its tensors, which autograd has to see."""
    if weights is None:
        return None, ()
    if isinstance(weights, Dense):
        return _Part(2, Dense, dense), (weights.weight, weights.bias)
    tensors = (weights.A, weights.N, weights.B, weights.A_bias, weights.N_bias, weights.B_bias)
    return _Part(6, partial(LowRank, scale=weights.scale), LowRankMaps), tensors


class _Modulate(torch.autograd.Function):
    """From h, a, residual and p, and the tensors of both parts, to the output."""

    @staticmethod
    def forward(
        ctx: Any,
        parts: tuple[_Part | None, _Part | None],
        dtype: torch.dtype,
        h: Tensor,
        a: Tensor,
        residual: Tensor | None,
        p: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        ctx.parts, ctx.dtype = parts, dtype
        ctx.wide = torch.promote_types(common_type(a, p), dtype)
        with torch.autocast(h.device.type, enabled=False):
            shared, specialized = _maps(parts, dtype, h, tensors, [False] * len(tensors), False, (None, None))
            output = mix(a, residual, p, shared, specialized, ctx.wide)
        kept = (None if maps is None else maps.kept for maps in (shared, specialized))
        ctx.save_for_backward(h, a, residual, p, *kept, *tensors)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        h, a, residual, p, kept_shared, kept_specialized, *tensors = ctx.saved_tensors
        needs_h, needs_a, needs_residual, needs_p, *needs = ctx.needs_input_grad[2:]
        with torch.autocast(h.device.type, enabled=False):
            kept = kept_shared, kept_specialized
            shared, specialized = _maps(ctx.parts, ctx.dtype, h, tensors, needs, needs_h, kept)
            needed = needs_a, needs_residual, needs_p
            others = mix_gradients(gradient, a, residual, p, shared, specialized, ctx.wide, needed)
            to_h, to_tensors = None, []
            for maps in (shared, specialized):
                if maps is not None:
                    to_h = maps.add_to(to_h) if needs_h else None
                    to_tensors += maps.gradients()
        return None, None, _like(to_h, h), *others, *map(_like, to_tensors, tensors)


class _RouterLogits(torch.autograd.Function):
    """Eq. 8 in at least float32, which keeps h as it is; :func:`hycam.ops.routing.router_logits` would widen it."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight, bias)
        return router_logits(h, Router(weight, bias))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        h, weight, bias = ctx.saved_tensors
        needs_h, needs_weight, needs_bias = ctx.needs_input_grad
        h_rows, gradient_rows = rows_of(h), rows_of(gradient)
        to_h = torch.empty_like(h, memory_format=torch.contiguous_format) if needs_h else None
        to_weight = torch.zeros_like(weight, dtype=gradient.dtype) if needs_weight else None
        with torch.autocast(h.device.type, enabled=False):
            for rows in chunks(h_rows):
                if to_h is not None:
                    rows_of(to_h)[rows] = gradient_rows[rows] @ weight.to(gradient.dtype)
                if to_weight is not None:
                    to_weight.addmm_(gradient_rows[rows].T, h_rows[rows].to(gradient.dtype))
        to_bias = gradient_rows.sum(dim=0) if needs_bias else None
        return to_h, _like(to_weight, weight), _like(to_bias, bias)


def _refuse_second_derivatives() -> None:
    # In a backward pass gradients are enabled if, and only if, it is to be differentiated.
    if torch.is_grad_enabled():
        raise HycamError(NO_SECOND_DERIVATIVE)


def _maps(
    parts: tuple[_Part | None, _Part | None],
    dtype: torch.dtype,
    h: Tensor,
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    needs_h: bool,
    kept: tuple[Tensor | None, Tensor | None],
) -> list[Any]:
    """The maps of the shared and of the specialised modules, each where there are such."""
    x = rows_of(h).to(dtype)
    found: list[Any] = []
    end = 0
    for part, kept_of_part in zip(parts, kept, strict=True):
        if part is None:
            found.append(None)
            continue
        of_part = slice(end, end + part.size)
        end = of_part.stop
        cast = (None if tensor is None else tensor.to(dtype) for tensor in tensors[of_part])
        found.append(part.maps(x, part.weights(*cast), needs[of_part], needs_h, kept_of_part))
    return found


def _like(gradient: Tensor | None, tensor: Tensor | None) -> Tensor | None:
    return None if gradient is None or tensor is None else gradient.view(tensor.shape).to(tensor.dtype)
