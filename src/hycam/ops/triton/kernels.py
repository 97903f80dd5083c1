"""Triton kernels for what stands between the matrix products of the modulation: SiLU, mix, and the product with ``a``.

No tensor of K times the hidden state is stored: the pre-activations ``w_k = scale (v_k B_k^T + b_k)`` are computed tile
by tile, in the backward pass once more. Sums run in float32 and in a fixed order, without atomics. Importing this file
imports Triton; with TRITON_INTERPRET=1 set before, the kernels run on CPU tensors.

Shapes, all contiguous: ``a``, ``residual``, ``s``, ``m`` ``[tokens, d]``; ``v`` ``[K, tokens, R]``; ``B``
``[K, d, R]``; ``bias`` ``[K, d]``; ``p`` ``[tokens, K]``. A pointer that is None leaves out its part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

# One binary serves all values of these, 1 included.
_VARYING = ("tokens", "K")


@triton.jit
def _dot(x, y, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    if WIDEN:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _silu_and_slope(w):
    """SiLU(w) = w sigmoid(w), and its derivative."""
    gate = 1 / (1 + tl.exp(-w))
    return w * gate, gate * (1 + w * (1 - gate))


@triton.jit
def _load_rows(pointer, rows, row_count, R, BLOCK_R: tl.constexpr):
    """Rows of a ``[row_count, R]`` matrix, filled up with zeros to BLOCK_R columns."""
    columns = tl.arange(0, BLOCK_R)
    inside = (rows < row_count)[:, None] & (columns < R)[None, :]
    return tl.load(pointer + rows[:, None] * R + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _pre_activation(v, B, bias_pointer, features, d, SCALE: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """``scale (v B^T + b)``, ``[BLOCK_T, BLOCK_D]`` in float32."""
    w = _dot(v, tl.trans(B), PRECISION, WIDEN)
    if bias_pointer is not None:
        w += tl.load(bias_pointer + features, mask=features < d, other=0.0).to(tl.float32)[None, :]
    return w * SCALE


@triton.jit(do_not_specialize=_VARYING)
def forward_kernel(
    out, m_out, a, residual, s, v, B, bias, p, tokens, d, K, R,
    BLOCK_R: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One tile of ``m = SiLU(s) + sum_k p_k SiLU(w_k)`` and of ``a (1 + m) + m residual``."""
    feature_tiles = tl.cdiv(d, BLOCK_D)
    rows = (tl.program_id(0) // feature_tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    features = (tl.program_id(0) % feature_tiles) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (rows < tokens)[:, None] & (features < d)[None, :]
    at = rows[:, None] * d + features[None, :]
    m = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for k in range(K):
        v_k = _load_rows(v + tl.cast(k, tl.int64) * tokens * R, rows, tokens, R, BLOCK_R)
        B_k = _load_rows(B + tl.cast(k, tl.int64) * d * R, features, d, R, BLOCK_R)
        bias_k = None if bias is None else bias + k * d
        w = _pre_activation(v_k, B_k, bias_k, features, d, SCALE, PRECISION, WIDEN)
        p_k = tl.load(p + rows * K + k, mask=rows < tokens, other=0.0)
        silu, _ = _silu_and_slope(w)
        m += p_k[:, None] * silu
    if s is not None:
        shared = tl.load(s + at, mask=inside, other=0.0).to(tl.float32)
        silu, _ = _silu_and_slope(shared)
        m += silu
    result = tl.load(a + at, mask=inside, other=0.0).to(tl.float32) * (1 + m)
    if residual is not None:
        result += m * tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)
    if m_out is not None:
        tl.store(m_out + at, m.to(m_out.dtype.element_ty), mask=inside)


@triton.jit
def pointwise_backward_kernel(
    dout, a, residual, s, m, dm, da, ds, dresidual, count, BLOCK: tl.constexpr
):  # fmt: skip
    """``dm = dout (a + residual)``, ``ds = dm SiLU'(s)``, ``da = dout (1 + m)``, ``dresidual = dout m``, flattened."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    upstream = tl.load(dout + at, mask=inside, other=0.0).to(tl.float32)
    scaled = tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        scaled += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    to_m = upstream * scaled
    tl.store(dm + at, to_m.to(dm.dtype.element_ty), mask=inside)
    if s is not None:
        _, slope = _silu_and_slope(tl.load(s + at, mask=inside, other=0.0).to(tl.float32))
        tl.store(ds + at, (to_m * slope).to(ds.dtype.element_ty), mask=inside)
    if m is not None:
        modulation = tl.load(m + at, mask=inside, other=0.0).to(tl.float32)
        if da is not None:
            tl.store(da + at, (upstream * (1 + modulation)).to(da.dtype.element_ty), mask=inside)
        if dresidual is not None:
            tl.store(dresidual + at, (upstream * modulation).to(dresidual.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def tokens_backward_kernel(
    dv, dp, dm, v, B, bias, p, tokens, d, span, K, R,
    BLOCK_R: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``dp_k = sum_d dm SiLU(w_k)`` and ``dv_k = g_k B_k``, ``g_k = scale dm p_k SiLU'(w_k)``: one k, some tokens.

    Sums over ``span`` features; ``dv`` ``[splits, K, tokens, R]`` and ``dp`` ``[splits, tokens, K]`` are float32.
    """
    # The modules of one tile of tokens are neighbours, so that they find its part of dm in the cache.
    k = tl.program_id(0) % K
    split = tl.program_id(1)
    rows = (tl.program_id(0) // K).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    v_k = _load_rows(v + k.to(tl.int64) * tokens * R, rows, tokens, R, BLOCK_R)
    B_k = B + k.to(tl.int64) * d * R
    bias_k = None if bias is None else bias + k * d
    to_v = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    to_p = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(split * span, tl.minimum(split * span + span, d), BLOCK_D):
        features = start + tl.arange(0, BLOCK_D)
        B_tile = _load_rows(B_k, features, d, R, BLOCK_R)
        inside = (rows < tokens)[:, None] & (features < d)[None, :]
        to_m = tl.load(dm + rows[:, None] * d + features[None, :], mask=inside, other=0.0).to(tl.float32)
        silu, slope = _silu_and_slope(_pre_activation(v_k, B_tile, bias_k, features, d, SCALE, PRECISION, WIDEN))
        to_p += tl.sum(to_m * silu, axis=1)
        to_v += _dot((to_m * slope).to(B_tile.dtype), B_tile, PRECISION, WIDEN)
    p_k = tl.load(p + rows * K + k, mask=rows < tokens, other=0.0)
    tl.store(dp + split.to(tl.int64) * tokens * K + rows * K + k, to_p, mask=rows < tokens)
    columns = tl.arange(0, BLOCK_R)
    inside = (rows < tokens)[:, None] & (columns < R)[None, :]
    at = (split * K + k).to(tl.int64) * tokens * R + rows[:, None] * R + columns[None, :]
    tl.store(dv + at, to_v * (p_k * SCALE)[:, None], mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def weights_backward_kernel(
    dB, dbias, dm, v, B, bias, p, tokens, d, span, K, R,
    BLOCK_R: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``dB_k = g_k^T v_k`` and ``dbias_k = sum_tokens g_k``, g as in :func:`tokens_backward_kernel`: some features.

    Sums over ``span`` tokens; ``dB`` ``[splits, K, d, R]`` and ``dbias`` ``[splits, K, d]`` are float32.
    """
    k = tl.program_id(0) % K
    split = tl.program_id(1)
    features = (tl.program_id(0) // K) * BLOCK_D + tl.arange(0, BLOCK_D)
    B_tile = _load_rows(B + k.to(tl.int64) * d * R, features, d, R, BLOCK_R)
    v_k = v + k.to(tl.int64) * tokens * R
    bias_k = None if bias is None else bias + k * d
    to_B = tl.zeros((BLOCK_D, BLOCK_R), tl.float32)
    to_bias = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(split * span, tl.minimum(split * span + span, tokens), BLOCK_T):
        rows = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_T)
        v_tile = _load_rows(v_k, rows, tokens, R, BLOCK_R)
        inside = (rows < tokens)[:, None] & (features < d)[None, :]
        to_m = tl.load(dm + rows[:, None] * d + features[None, :], mask=inside, other=0.0).to(tl.float32)
        p_k = tl.load(p + rows * K + k, mask=rows < tokens, other=0.0)
        _, slope = _silu_and_slope(_pre_activation(v_tile, B_tile, bias_k, features, d, SCALE, PRECISION, WIDEN))
        g = to_m * (p_k * SCALE)[:, None] * slope
        to_B += _dot(tl.trans(g.to(v_tile.dtype)), v_tile, PRECISION, WIDEN)
        if bias is not None:
            to_bias += tl.sum(g, axis=0)
    columns = tl.arange(0, BLOCK_R)
    inside = (features < d)[:, None] & (columns < R)[None, :]
    base = (split * K + k).to(tl.int64) * d
    tl.store(dB + base * R + features[:, None] * R + columns[None, :], to_B, mask=inside)
    if bias is not None:
        tl.store(dbias + base + features, to_bias, mask=features < d)


INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)

Tile = tuple[int, int, int, int]  # tokens, features, warps, stages
# By how products are taken. The first runs untimed: it fits the shared memory of every device since compute capability
# 8.0. Full float32 products are unrolled on the ordinary cores, where a larger tile spills its registers.
TILES: dict[str, tuple[Tile, ...]] = {
    "16 bits": ((64, 64, 4, 2), (64, 128, 8, 3), (128, 64, 8, 3), (128, 128, 8, 3)),
    "tf32": ((32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (128, 64, 8, 2)),
    "ieee": ((32, 32, 4, 2), (64, 64, 8, 2)),
}


def launch(kernel: Any, grid: Callable[[dict[str, Any]], tuple[int, ...]], **arguments: Any) -> None:
    """Runs ``kernel`` with the fastest of TILES for its widths and types, found at its first call.

    Another tile sums in another order. Under ``torch.use_deterministic_algorithms`` the first one is taken untimed, so
    that the bits agree between processes; within one process they always do.
    """
    tiles = TILES["16 bits" if arguments["v"].element_size() == 2 else arguments["PRECISION"]]
    with torch.cuda.device_of(arguments["v"]):
        if INTERPRETED or torch.are_deterministic_algorithms_enabled():
            tokens, features, warps, stages = tiles[0]
            kernel[grid](**arguments, BLOCK_T=tokens, BLOCK_D=features, num_warps=warps, num_stages=stages)
        else:
            _tuned(kernel, tiles)[grid](**arguments)


@functools.cache
def _tuned(kernel: Any, tiles: tuple[Tile, ...]) -> Any:
    configurations = [
        triton.Config({"BLOCK_T": tokens, "BLOCK_D": features}, num_warps=warps, num_stages=stages)
        for tokens, features, warps, stages in tiles
    ]
    return triton.autotune(configurations, key=["d", "K", "R"])(kernel)
