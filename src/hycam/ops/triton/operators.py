"""The Triton kernels as PyTorch operators with gradients, which ``torch.compile`` takes into its graph as they are.

Importing this file imports Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from hycam.ops.triton import kernels

# How many programs keep a large device busy, and the least length over which one of them sums.
_PROGRAMS, _LEAST_SPAN = 512, 512


@torch.library.custom_op("hycam::mix", mutates_args=())
def mix(
    a: Tensor,
    residual: Tensor | None,
    s: Tensor | None,
    v: Tensor,
    B: Tensor,
    bias: Tensor | None,
    p: Tensor,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """``a (1 + m) + m residual`` with ``m = SiLU(s) + sum_k p_k SiLU(scale (v_k B_k^T + bias_k))``.

    Args:
        a: the attention output, ``[tokens, d]``.
        residual: ``[tokens, d]``, or None for none.
        s: pre-activation of the shared module, ``[tokens, d]``, or None for none.
        v: low-rank activations ``[K, tokens, r]``, of the type of ``B``.
        B: ``[K, d, r]``.
        bias: ``[K, d]``, or None for none.
        p: routing probabilities ``[tokens, K]``, float32.
        scale: a factor inside the SiLU of the specialised modules.
        keep: whether m is needed for the gradient of ``a`` or ``residual``.

    Returns:
        the result, like ``a``, and m in the same type; an empty tensor in its place if it is not kept.
    """
    tokens, d = a.shape
    a, residual, s, v, B, bias, p = _contiguous(a, residual, s, v, B, bias, p)
    out = torch.empty_like(a)
    m = torch.empty_like(a) if keep else a.new_empty(0)
    if tokens:
        kernels.launch(
            kernels.forward_kernel,
            lambda tile: (triton.cdiv(tokens, tile["BLOCK_T"]) * triton.cdiv(d, tile["BLOCK_D"]),),
            out=out, m_out=m if keep else None, a=a, residual=residual, s=s, **_products(v, B, bias, p, scale),
        )  # fmt: skip
    return out, m


@torch.library.custom_op("hycam::mix_backward_pointwise", mutates_args=())
def mix_backward_pointwise(
    dout: Tensor,
    a: Tensor,
    residual: Tensor | None,
    s: Tensor | None,
    m: Tensor,
    dm_type: torch.dtype,
    a_grad: bool,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`mix` in m, ``a``, ``s`` and ``residual``; an empty tensor for one that is not asked for."""
    assert m.numel() == a.numel() or not (a_grad or residual_grad)
    dout, a, residual, s, m = _contiguous(dout, a, residual, s, m)
    dm, da = torch.empty_like(a, dtype=dm_type), _like(a, a_grad)
    ds = a.new_empty(0) if s is None else _like(s)
    dresidual = a.new_empty(0) if residual is None else _like(residual, residual_grad)
    count, block = a.numel(), 1024
    if count:
        with torch.cuda.device_of(a):
            kernels.pointwise_backward_kernel[(triton.cdiv(count, block),)](
                dout, a, residual, s, m if m.numel() else None, dm, da if a_grad else None,
                None if s is None else ds, dresidual if residual_grad else None, count, BLOCK=block,
            )  # fmt: skip
    return dm, da, ds, dresidual


@torch.library.custom_op("hycam::mix_backward_tokens", mutates_args=())
def mix_backward_tokens(
    dm: Tensor, v: Tensor, B: Tensor, bias: Tensor | None, p: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`mix` in ``v`` and ``p``, from that in m."""
    modules, tokens, rank = v.shape
    if not tokens:
        return torch.zeros_like(v), torch.zeros_like(p)
    dm, v, B, bias, p = _contiguous(dm, v, B, bias, p)
    d = dm.shape[-1]
    splits, span = _split(d, triton.cdiv(tokens, 64) * modules)
    dv = p.new_empty((splits, modules, tokens, rank))
    dp = p.new_empty((splits, tokens, modules))
    kernels.launch(
        kernels.tokens_backward_kernel,
        lambda tile: (triton.cdiv(tokens, tile["BLOCK_T"]) * modules, splits),
        dv=dv, dp=dp, dm=dm, span=span, **_products(v, B, bias, p, scale),
    )  # fmt: skip
    return dv.sum(0).to(v.dtype), dp.sum(0)


@torch.library.custom_op("hycam::mix_backward_weights", mutates_args=())
def mix_backward_weights(
    dm: Tensor, v: Tensor, B: Tensor, bias: Tensor | None, p: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`mix` in ``B`` and ``bias``, from that in m; an empty tensor for a bias that is None."""
    modules, tokens, rank = v.shape
    d = dm.shape[-1]
    if not tokens:
        return torch.zeros_like(B), B.new_empty(0) if bias is None else torch.zeros_like(bias)
    dm, v, B, bias, p = _contiguous(dm, v, B, bias, p)
    splits, span = _split(tokens, triton.cdiv(d, 64) * modules)
    dB = p.new_empty((splits, modules, d, rank))
    dbias = None if bias is None else p.new_empty((splits, modules, d))
    kernels.launch(
        kernels.weights_backward_kernel,
        lambda tile: (triton.cdiv(d, tile["BLOCK_D"]) * modules, splits),
        dB=dB, dbias=dbias, dm=dm, span=span, **_products(v, B, bias, p, scale),
    )  # fmt: skip
    return dB.sum(0).to(B.dtype), B.new_empty(0) if dbias is None else dbias.sum(0).to(B.dtype)


def _contiguous(*tensors: Tensor | None) -> Any:
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def _products(v: Tensor, B: Tensor, bias: Tensor | None, p: Tensor, scale: float) -> dict[str, Any]:
    """What all kernels with a matrix product take alike."""
    modules, tokens, rank = v.shape
    full = v.element_size() == 2 or torch.get_float32_matmul_precision() == "highest"  # PyTorch's own switch
    return {
        "v": v, "B": B, "bias": bias, "p": p, "tokens": tokens, "d": B.shape[1], "K": modules, "R": rank,
        "BLOCK_R": max(16, triton.next_power_of_2(rank)), "SCALE": scale, "PRECISION": "ieee" if full else "tf32",
        # The interpreter would multiply the bit patterns of bfloat16.
        "WIDEN": kernels.INTERPRETED and v.dtype == torch.bfloat16,
    }  # fmt: skip


def _split(length: int, programs: int) -> tuple[int, int]:
    """Into how many spans of what length to cut a sum, so that there are enough programs; only shapes decide."""
    splits = max(1, min(triton.cdiv(length, _LEAST_SPAN), triton.cdiv(_PROGRAMS, programs)))
    span = triton.cdiv(triton.cdiv(length, splits), 256) * 256  # a multiple of every tile
    return triton.cdiv(length, span), span


@mix.register_fake
def _(a, residual, s, v, B, bias, p, scale, keep):
    return torch.empty_like(a, memory_format=torch.contiguous_format), _like(a, keep)


@mix_backward_pointwise.register_fake
def _(dout, a, residual, s, m, dm_type, a_grad, residual_grad):
    dm = torch.empty_like(a, dtype=dm_type, memory_format=torch.contiguous_format)
    dresidual = a.new_empty(0) if residual is None else _like(residual, residual_grad)
    return dm, _like(a, a_grad), a.new_empty(0) if s is None else _like(s), dresidual


@mix_backward_tokens.register_fake
def _(dm, v, B, bias, p, scale):
    return _like(v), _like(p)


@mix_backward_weights.register_fake
def _(dm, v, B, bias, p, scale):
    return _like(B), B.new_empty(0) if bias is None else _like(bias)


def _like(tensor: Tensor, present: bool = True) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format) if present else tensor.new_empty(0)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, _ = inputs
    _, m = output
    ctx.mark_non_differentiable(m)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, m)


def _backward(ctx: Any, dout: Tensor, _: None) -> tuple[Tensor | None, ...]:
    a, residual, s, v, B, bias, p, m = ctx.saved_tensors
    for_a, for_residual, for_s, for_v, for_B, for_bias, for_p, *_ = ctx.needs_input_grad
    dm, da, ds, dresidual = mix_backward_pointwise(
        dout, a, residual, s if for_s else None, m, v.dtype, for_a, for_residual
    )
    dv = dp = dB = dbias = None
    if for_v or for_p:
        dv, dp = mix_backward_tokens(dm, v, B, bias, p, ctx.scale)
    if for_B or for_bias:
        dB, dbias = mix_backward_weights(dm, v, B, bias, p, ctx.scale)
    return (
        da if for_a else None, dresidual if for_residual else None, ds if for_s else None,
        dv, dB, dbias if for_bias else None, dp, None, None,
    )  # fmt: skip


mix.register_autograd(_backward, setup_context=_keep_for_backward)
