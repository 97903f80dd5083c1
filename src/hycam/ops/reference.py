"""Eq. 5 to 12 written as the paper writes them, one specialised module at a time.

This is the oracle that every other implementation is compared with, in float64. It is not meant to be fast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.dispatch import Backend, register
from hycam.ops.routing import route, router_logits
from hycam.ops.weights import Dense, LowRank, Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``h_out = h_att * (1 + m)`` with ``m = A_shared + sum_k p_k A_k`` (Eq. 4, 11 and 12).

    With ``residual`` it is ``h_out = h_att * (1 + m) + m * residual``, to which the block adds the residual: then its
    residual stream is ``(residual + h_att) * (1 + m)``, as in the code released with the paper.

    Args:
        h: the block's normalised input, ``(batch, seq, d)``.
        a: the attention output, ``(batch, seq, d)``.
        weights: the modulation's weights.
        noise: Gumbel noise ``(batch, seq, K)``, or None for none.
        residual: what the block will add to the result, ``(batch, seq, d)``; None to modulate the attention output
            alone.

    Returns:
        the modulated attention output ``(batch, seq, d)``, and ``(p, logits)``, each ``(batch, seq, K)``, or None
        where there is no router.
    """
    fused = torch.zeros_like(a)
    if weights.shared is not None:
        fused = fused + F.silu(_pre_activation(h, weights.shared, None))  # Eq. 5
    routing = None
    if weights.router is not None and weights.specialized is not None:
        logits = router_logits(h, weights.router)  # Eq. 8
        p = route(logits, noise, weights.router)  # Eq. 9
        for k in range(p.shape[-1]):
            fused = fused + p[..., k : k + 1] * F.silu(_pre_activation(h, weights.specialized, k))  # Eq. 6, 7, 11
        routing = (p, logits)
    output = a * (1 + fused)  # Eq. 12
    if residual is not None:
        output = output + fused * residual
    return output.to(a.dtype), routing


def _pre_activation(h: Tensor, weights: Dense | LowRank, k: int | None) -> Tensor:
    def of(tensor: Tensor | None) -> Tensor | None:
        return tensor if k is None or tensor is None else tensor[k]

    def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None
        y = x.to(weight.dtype) @ weight.T
        return y if bias is None else y + bias

    if isinstance(weights, Dense):
        return affine(h, of(weights.weight), of(weights.bias))
    u = affine(h, of(weights.A), of(weights.A_bias))
    v = affine(u, of(weights.N), of(weights.N_bias))
    return weights.scale * affine(v, of(weights.B), of(weights.B_bias))


register(Backend("reference", modulate))
