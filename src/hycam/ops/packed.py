"""The modulation without gradients and noise: N folded into A, and one product for all maps of h.

Packed weights are a second copy, so they are kept small: N folded into A replaces both, and B and a large shared map
are used in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.products import product_type
from hycam.ops.routing import at_least_float32, route
from hycam.ops.weights import Dense, LowRank, Modulation, Router

# A shared map with more weights is not copied: reading it takes far longer than the call that packing saves.
_SHARED_AT_MOST = 2**20
# All modules are mapped back to d in one product as long as the result, [K, tokens, d], fits into a core's cache: one
# call for the single token of a decoding step. Beyond it the modules follow one another, which is as fast and holds at
# most one hidden state beside the result, however long the prompt.
_TOGETHER_AT_MOST = 2**17


@dataclass(frozen=True)
class Packed:
    """The weights of one layer as inference takes them.

    Attributes:
        weight: ``[rows, d]``, what is multiplied with h: the shared map, ``scale * N_k A_k`` and the router. It lies in
            memory as ``[d, rows]``, which a product with one token reads faster than the usual order.
        bias: ``[rows]``, or None.
        rows: the number of rows of the shared module, the specialised modules and the router; 0 for one that is absent
            or has a product of its own.
        shared: what follows the shared rows (B of a low-rank map), or replaces them (a large map of h); None where
            the rows are the pre-activation itself.
        B: ``[K, r, d]``, a view of the layer's own ``[K, d, r]``; None without specialised modules.
        B_bias: ``[K, 1, d]``, scaled; or None.
        router: the router in at least float32, whose weights are used where the product's type is narrower.
    """

    weight: Tensor
    bias: Tensor | None
    rows: tuple[int, int, int]
    shared: Dense | None
    B: Tensor | None
    B_bias: Tensor | None
    router: Router | None


def supports(weights: Modulation) -> str | None:
    """Why these weights are not packed; None where they can be."""
    if isinstance(weights.specialized, Dense):
        return "full specialised maps have no N to fold, and packing would only copy them"
    if weights.specialized is None and isinstance(weights.shared, Dense):
        return "a shared map alone is one product already"
    if len({(tensor.dtype, tensor.device) for tensor in weights.tensors()}) > 1:
        return "its weights have different types or devices"
    return None


@torch.no_grad()
def pack(weights: Modulation) -> Packed:
    """Packs weights that :func:`supports` accepts, in their own type or, under autocast, in autocast's.

    ``w_k = scale (B_k (N_k (A_k h + a_k) + n_k) + b_k) = B_k (scale N_k A_k h + scale (N_k a_k + n_k)) + scale b_k``;
    the products on the right are taken in at least float32 and rounded once.
    """
    first = weights.tensors()[0]
    dtype = product_type(first.dtype, first.device)
    with torch.autocast(first.device.type, enabled=False):
        return _pack(weights, dtype)


def _pack(weights: Modulation, dtype: torch.dtype) -> Packed:
    blocks: list[tuple[Tensor, Tensor | None]] = []  # [rows, d] and [rows]
    of_shared = of_specialized = of_router = 0
    shared = B = B_bias = router = None
    if isinstance(weights.shared, LowRank):
        blocks.append(_folded(weights.shared))
        shared = Dense(*_mapping_back(weights.shared, dtype))
        of_shared = weights.shared.A.shape[0]
    elif weights.shared is not None and weights.shared.weight.numel() > _SHARED_AT_MOST:
        bias = weights.shared.bias
        shared = Dense(weights.shared.weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))
    elif weights.shared is not None:
        blocks.append((weights.shared.weight, weights.shared.bias))
        of_shared = len(weights.shared.weight)
    if isinstance(weights.specialized, LowRank) and weights.router is not None:
        weight, bias = _folded(weights.specialized)
        blocks.append((weight.flatten(0, 1), None if bias is None else bias.flatten()))
        B, B_bias = _mapping_back(weights.specialized, dtype)
        B, B_bias = B.transpose(1, 2), None if B_bias is None else B_bias.unsqueeze(1)
        router = weights.router
        bias = None if router.bias is None else at_least_float32(router.bias.detach())
        router = replace(router, weight=at_least_float32(router.weight.detach()), bias=bias)
        of_specialized = weight.shape[0] * weight.shape[1]
        if torch.promote_types(dtype, torch.float32) == dtype:
            blocks.append((router.weight, router.bias))
            of_router = len(router.weight)
    rows = (of_shared, of_specialized, of_router)
    first = blocks[0][0]
    weight = torch.empty(first.shape[1], sum(rows), dtype=dtype, device=first.device).T
    offset = None if all(bias is None for _, bias in blocks) else weight.new_zeros(sum(rows))
    start = 0
    for block, bias in blocks:
        place = slice(start, start + len(block))
        weight[place] = block
        if offset is not None and bias is not None:
            offset[place] = bias
        start = place.stop
    return Packed(weight, offset, rows, shared, B, B_bias, router)


def modulate(
    h: Tensor, a: Tensor, packed: Packed, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """What :func:`hycam.ops.reference.modulate` gives without noise; arguments and result are the same.

    ``a * (1 + m)`` and not ``a + a * m``, as in :func:`hycam.ops.eager.modulate`.
    """
    if torch.is_autocast_enabled(h.device.type):  # packing has settled the types
        with torch.autocast(h.device.type, enabled=False):
            return modulate(h, a, packed, residual)
    x = h.to(packed.weight.dtype)
    y = F.linear(x, packed.weight, packed.bias)
    of_shared, v, logits = y.split_with_sizes(packed.rows, dim=-1)
    m = routing = None
    if packed.shared is not None:
        of_shared = F.linear(of_shared if packed.rows[0] else x, packed.shared.weight, packed.shared.bias)
    if of_shared.shape[-1]:
        m = F.silu(at_least_float32(of_shared))
    if packed.router is not None:
        if not packed.rows[2]:
            logits = F.linear(h.to(packed.router.weight.dtype), packed.router.weight, packed.router.bias)
        p = route(logits, None, packed.router)
        m = _with_specialized(m, v, p, packed)
        routing = (p, logits)
    assert m is not None
    output = a * (1 + m)
    if residual is not None:
        output = output + m * residual
    return output.to(a.dtype), routing


def _with_specialized(m: Tensor | None, v: Tensor, p: Tensor, packed: Packed) -> Tensor:
    """``m + sum_k p_k SiLU(B_k v_k + b_k)``, ``(batch, seq, d)`` in at least float32; ``m`` is overwritten."""
    B, bias = packed.B, packed.B_bias
    assert B is not None
    modules, rank, d = B.shape
    tokens = v.shape[:-1].numel()
    shape = (*v.shape[:-1], d)
    v = v.reshape(tokens, modules, rank)
    p = p.to(torch.promote_types(v.dtype, torch.float32)).reshape(tokens, 1, modules)
    m = None if m is None else m.reshape(tokens, 1, d)
    if tokens * modules * d <= _TOGETHER_AT_MOST:
        u = v.transpose(0, 1)
        w = torch.bmm(u, B) if bias is None else torch.baddbmm(bias, u, B)  # [K, tokens, d]
        activations = F.silu(at_least_float32(w), inplace=True).transpose(0, 1)
        m = torch.bmm(p, activations) if m is None else torch.baddbmm(m, p, activations)
        return m.view(shape)
    m = p.new_zeros(tokens, 1, d) if m is None else m
    for k in range(modules):
        w = v[:, k] @ B[k] if bias is None else torch.addmm(bias[k], v[:, k], B[k])
        m[:, 0].addcmul_(p[:, 0, k : k + 1], F.silu(at_least_float32(w), inplace=True))
    return m.view(shape)


def _folded(weights: LowRank) -> tuple[Tensor, Tensor | None]:
    """``scale N A`` and ``scale (N a + n)``, in at least float32."""
    a, n = (None if bias is None else at_least_float32(bias) for bias in (weights.A_bias, weights.N_bias))
    A, N = at_least_float32(weights.A), at_least_float32(weights.N)
    weight, bias = replace(weights, A=A, N=N, A_bias=a, N_bias=n).inner()
    return weight * weights.scale, None if bias is None else bias * weights.scale


def _mapping_back(weights: LowRank, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """B, not copied where it has the type already, and its bias times the scale."""
    bias = None if weights.B_bias is None else (at_least_float32(weights.B_bias) * weights.scale).to(dtype)
    return weights.B.detach().to(dtype), bias
