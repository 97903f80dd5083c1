"""The modulation as ordinary products: one for all A, a batched one for N, one after the other for B.

The specialised modules cannot be fused into one map, since each has its own SiLU before the mix. What can be shared is:
all K projections to rank r are one product, all K inner maps one batched product; only the K maps back to d are taken
one after the other, and no tensor of K times the hidden state is ever formed. What follows the products is one
operation, see :mod:`hycam.ops.mixing`: for its backward pass it keeps nothing but what goes into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.mixing import common_type, mix, mix_gradients, rows_of
from hycam.ops.routing import route, router_logits
from hycam.ops.weights import Dense, LowRank, Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    ``h`` is cast to the weights' type (PEFT keeps adapters in float32 on a bfloat16 backbone); all that follows the
    products is at least float32, and the result has the type of ``a``. Written ``a * (1 + m)`` and not ``a + a * m``,
    so that an infinite ``a`` under an untrained adapter (m = 0) stays infinite instead of becoming NaN.
    """
    shared = None if weights.shared is None else _shared(h, weights.shared)
    routing = p = None
    specialized: list[Tensor] = []
    if weights.router is not None and weights.specialized is not None:
        logits = router_logits(h, weights.router)
        p = route(logits, noise, weights.router)
        routing = (p, logits)
        specialized = list(_specialized(h, weights.specialized))
    # A compiler fuses the operations better than they can be ordered by hand.
    mixed = _mix if torch.compiler.is_compiling() else _Mix.apply
    return mixed(a, residual, p, shared, *specialized), routing


def _shared(h: Tensor, weights: Dense | LowRank) -> Tensor:
    if isinstance(weights, Dense):
        return F.linear(h.to(weights.weight.dtype), weights.weight, weights.bias)
    u = F.linear(h.to(weights.A.dtype), weights.A, weights.A_bias)
    v = F.linear(u, weights.N, weights.N_bias)
    return _scaled(F.linear(v, weights.B, weights.B_bias), weights.scale)


def _specialized(h: Tensor, weights: Dense | LowRank) -> Iterator[Tensor]:
    """What goes into the SiLU of each specialised module, ``(batch, seq, d)``, one after the other."""
    if isinstance(weights, Dense):
        h = h.to(weights.weight.dtype)
        biases = weights.bias if weights.bias is not None else [None] * len(weights.weight)
        for weight, bias in zip(weights.weight, biases, strict=True):
            yield F.linear(h, weight, bias)
        return
    modules, rank, _ = weights.A.shape
    flat = None if weights.A_bias is None else weights.A_bias.flatten()
    u = F.linear(h.to(weights.A.dtype), weights.A.flatten(0, 1), flat)  # [batch, seq, K*r]
    u = u.flatten(0, -2).unflatten(-1, (modules, rank)).transpose(0, 1)  # [K, tokens, r]
    v = torch.matmul(u, weights.N.transpose(1, 2))
    if weights.N_bias is not None:
        v = v + weights.N_bias[:, None]
    v = v.unflatten(1, h.shape[:-1])  # [K, batch, seq, r]
    biases = weights.B_bias if weights.B_bias is not None else [None] * modules
    for v_k, B_k, bias_k in zip(v, weights.B, biases, strict=True):
        yield _scaled(F.linear(v_k, B_k, bias_k), weights.scale)


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

    def take(self, k: int, rows: slice, gradient: Tensor) -> None:
        self.gradient_rows[k][rows] = gradient
