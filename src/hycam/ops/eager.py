"""The modulation as ordinary products: one for all that maps h to rank r, then one after the other for B.

The specialised modules cannot be fused into one map, since each has its own SiLU before the mix. What can be shared is:
N is multiplied into A, which is r by r by d once and saves r by r for every token; all K maps to rank r are one
product; only the K maps back to d are taken one after the other, and no tensor of K times the hidden state is ever
formed. What follows the products is one operation, see :mod:`hycam.ops.mixing`: for its backward pass it keeps nothing
but what goes into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.mixing import common_type, mix, mix_gradients, rows_of, write_product
from hycam.ops.products import HiddenProducts, in_product_type, router_map
from hycam.ops.routing import route
from hycam.ops.weights import Dense, LowRank, Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    ``h`` is cast to the weights' type (PEFT keeps adapters in float32 on a bfloat16 backbone); all that follows the
    products is at least float32, and the result has the type of ``a``. Written ``a * (1 + m)`` and not ``a + a * m``,
    so that an infinite ``a`` under an untrained adapter (m = 0) stays infinite instead of becoming NaN.
    """
    shared, specialized, router = in_product_type(weights.shared), in_product_type(weights.specialized), weights.router
    of_shared, of_specialized = _of_hidden(shared), _of_hidden(specialized)
    maps = [*of_shared, *of_specialized, *([] if router is None else [router_map(router)])]
    products = HiddenProducts.apply(h.flatten(0, -2), *chain.from_iterable(maps))
    products = [product.unflatten(0, h.shape[:-1]) for product in products]
    w_shared = _mapped_back(shared, products[: len(of_shared)])
    w_specialized = _mapped_back(specialized, products[len(of_shared) :][: len(of_specialized)])
    routing = p = None
    if router is not None:
        logits = products[-1]
        p = route(logits, noise, router)
        routing = (p, logits)
    # A compiler fuses the operations better than they can be ordered by hand.
    mixed = _mix if torch.compiler.is_compiling() else _Mix.apply
    return mixed(a, residual, p, w_shared[0] if w_shared else None, *w_specialized), routing


def _of_hidden(part: Dense | LowRank | None) -> list[tuple[Tensor, Tensor | None]]:
    """Weights ``[n, d]`` and biases ``[n]`` of what a part maps h with: its own, or one map to all its ranks."""
    if part is None:
        return []
    if isinstance(part, LowRank):
        inner, bias = part.inner()
        return [(inner.reshape(-1, inner.shape[-1]), None if bias is None else bias.flatten())]
    if part.weight.dim() == 2:
        return [(part.weight, part.bias)]
    return list(zip(part.weight, [None] * len(part.weight) if part.bias is None else part.bias, strict=True))


def _mapped_back(part: Dense | LowRank | None, of_hidden: list[Tensor]) -> list[Tensor]:
    """What goes into the SiLU of each module of a part, ``(batch, seq, d)``, from the products of its own maps."""
    if not isinstance(part, LowRank):
        return of_hidden
    d, r = part.B.shape[-2:]
    B = part.B.reshape(-1, d, r)
    biases = [None] * len(B) if part.B_bias is None else part.B_bias.reshape(-1, d)
    each_v = of_hidden[0].chunk(len(B), dim=-1)
    return [_scaled(F.linear(v, B_k, bias), part.scale) for v, B_k, bias in zip(each_v, B, biases, strict=True)]


def _scaled(w: Tensor, scale: float) -> Tensor:
    return w if scale == 1.0 else w * scale


def _mix(a: Tensor, residual: Tensor | None, p: Tensor | None, shared: Tensor | None, *specialized: Tensor) -> Tensor:
    """:func:`hycam.ops.mixing.mix` in operations that can be differentiated any number of times."""
    dtype = common_type(a, p, shared, *specialized)
    m = torch.zeros((), dtype=dtype, device=a.device) if shared is None else F.silu(shared.to(dtype))
    if p is not None:
        for p_k, w in zip(p.split(1, dim=-1), specialized, strict=True):
            m = m + p_k * F.silu(w.to(dtype))
    output = a * (1 + m)
    return (output if residual is None else output + m * residual).to(a.dtype)


class _Mix(torch.autograd.Function):
    """:func:`_mix` in few passes over memory."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, residual: Tensor | None, p: Tensor | None, shared: Tensor | None, *specialized: Tensor
    ) -> Tensor:
        ctx.save_for_backward(a, residual, p, shared, *specialized)
        of_shared = None if shared is None else _Kept((shared,), (False,))
        of_specialized = _Kept(specialized, (False,) * len(specialized))
        return mix(a, residual, p, of_shared, of_specialized, common_type(a, p, shared, *specialized))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients are to be differentiated again
            # Of aliases, which no other input is a function of. Of the inputs themselves it would go through those that
            # were computed from another, and autograd does that again.
            inputs = [None if one is None else one.view_as(one) for one in inputs]
            needed = [at for at, needs in enumerate(ctx.needs_input_grad) if needs]
            found = torch.autograd.grad(_mix(*inputs), [inputs[at] for at in needed], gradient, create_graph=True)
            by_position = dict(zip(needed, found, strict=True))
            return tuple(by_position.get(at) for at in range(len(inputs)))
        a, residual, p, shared, *specialized = inputs
        needs_a, needs_residual, needs_p, needs_shared, *needs_specialized = ctx.needs_input_grad
        of_shared = None if shared is None else _Kept((shared,), (needs_shared,))
        of_specialized = _Kept(specialized, needs_specialized)
        others = mix_gradients(
            gradient, a, residual, p, of_shared, of_specialized, common_type(a, p, shared, *specialized),
            (needs_a, needs_residual, needs_p),
        )  # fmt: skip
        return *others, None if of_shared is None else of_shared.gradients[0], *of_specialized.gradients


class _Kept:
    """Pre-activations that are there, ``(batch, seq, d)`` each, and their gradients."""

    def __init__(self, tensors: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self.modules, self.is_needed = len(tensors), any(needs)
        self.rows = [rows_of(tensor) for tensor in tensors]
        self.gradients: list[Tensor | None] = [None] * len(tensors)
        if self.is_needed:
            self.gradients = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]
        self.gradient_rows = [rows_of(gradient) for gradient in self.gradients]

    def pre_activation(self, k: int, rows: slice) -> Tensor:
        return self.rows[k][rows]

    def take(self, k: int, rows: slice, slope: Tensor, gradient: Tensor) -> None:
        write_product(slope, gradient, self.gradient_rows[k][rows])
