"""The modulation in plain PyTorch operations: one product for all A, a batched N, accumulation over the modules.

The specialised modules cannot be fused into one map, since each has its own SiLU before the mix. What can be shared is:
all K projections to rank r are one product, all K inner maps one batched product; only the K maps back to d and their
activations are taken one after the other, so that no tensor of K times the hidden state is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.routing import at_least_float32, route, router_logits
from hycam.ops.weights import Dense, LowRank, Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    ``h`` is cast to the weights' type (PEFT keeps adapters in float32 on a bfloat16 backbone); the sums and the final
    products are taken in at least float32, and the result has the type of ``a``. Written ``a * (1 + m)`` and not
    ``a + a * m``, so that an infinite ``a`` under an untrained adapter (m = 0) stays infinite instead of becoming NaN.
    """
    parts: list[Tensor] = []
    routing = None
    if weights.shared is not None:
        parts.append(at_least_float32(F.silu(_shared(h, weights.shared))))
    if weights.router is not None and weights.specialized is not None:
        logits = router_logits(h, weights.router)
        p = route(logits, noise, weights.router)
        parts.append(_specialized(h, p, weights.specialized))
        routing = (p, logits)
    m = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    output = a * (1 + m)
    if residual is not None:
        output = output + m * residual
    return output.to(a.dtype), routing


def _shared(h: Tensor, weights: Dense | LowRank) -> Tensor:
    if isinstance(weights, Dense):
        return F.linear(h.to(weights.weight.dtype), weights.weight, weights.bias)
    u = F.linear(h.to(weights.A.dtype), weights.A, weights.A_bias)
    v = F.linear(u, weights.N, weights.N_bias)
    return _scaled(F.linear(v, weights.B, weights.B_bias), weights.scale)


def _specialized(h: Tensor, p: Tensor, weights: Dense | LowRank) -> Tensor:
    """``sum_k p_k SiLU(w_k)``, ``(batch, seq, d)`` in at least float32."""
    if isinstance(weights, Dense):
        h = h.to(weights.weight.dtype)
        activations = (F.silu(F.linear(h, weight)) for weight in weights.weight)
    else:
        modules, rank, _ = weights.A.shape
        flat = None if weights.A_bias is None else weights.A_bias.flatten()
        u = F.linear(h.to(weights.A.dtype), weights.A.flatten(0, 1), flat)  # [batch, seq, K*r]
        u = u.flatten(0, -2).unflatten(-1, (modules, rank)).transpose(0, 1)  # [K, tokens, r]
        v = torch.matmul(u, weights.N.transpose(1, 2))
        if weights.N_bias is not None:
            v = v + weights.N_bias[:, None]
        v = v.unflatten(1, h.shape[:-1])  # [K, batch, seq, r]
        biases = weights.B_bias if weights.B_bias is not None else [None] * modules
        activations = (
            F.silu(_scaled(F.linear(v_k, B_k, bias_k), weights.scale))
            for v_k, B_k, bias_k in zip(v, weights.B, biases, strict=True)
        )
    total = torch.zeros((), dtype=p.dtype, device=p.device)
    for p_k, activation in zip(p.unbind(-1), activations, strict=True):
        total = torch.addcmul(total, p_k.unsqueeze(-1), at_least_float32(activation))
    return total


def _scaled(w: Tensor, scale: float) -> Tensor:
    return w if scale == 1.0 else w * scale
