"""A linear layer with routed LoRA experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hycam.ops import Router
from hycam.ops.routing import router_logits
from hycam.tuners.linear import StackedLayer
from hycam.tuners.moelora.config import MoeLoraConfig


class MoeLoraLayer(StackedLayer):
    r"""A linear layer with N low-rank experts and a gate that weighs them for each token.

    .. math::
        y = W x + \frac{\alpha}{r} \sum_{i=1}^{N} g_i B_i A_i x, \qquad
        g = \text{renormalised top-}k\bigl(\text{softmax}(W_g x)\bigr)

    RieMoE-LoRA (arXiv 2502.15828), with ``A_i`` ``[r, in]``, ``B_i`` ``[out, r]`` and ``W_g`` ``[N, in]`` without bias.
    ``g_i`` is a number for each token, so ``g_i B_i A_i x = B_i (g_i A_i x)``: all A are one product, the gate scales
    its N r outputs, and all B are one product.
    """

    moelora_gate: nn.ModuleDict
    prefix = "moelora_"
    adapter_layer_names = ("moelora_A", "moelora_B", "moelora_gate")
    linear_names = ("moelora_gate",)
    other_param_names = ("configs",)
    starts_at_zero = "moelora_B"
    not_mergeable = (
        "A MoE-LoRA adapter cannot be merged: which experts act depends on the input, so they cannot be folded into "
        "the backbone's weights. Use the adapter as it is, or `unload()` to get the backbone back."
    )

    def add_weights(self, adapter: str, config: MoeLoraConfig) -> None:
        self.add_factors(adapter, config.num_experts, config.r)
        self.moelora_gate[adapter] = nn.Linear(self.in_features, config.num_experts, bias=False)

    def delta(self, x: Tensor, adapter: str, config: MoeLoraConfig) -> Tensor:
        A, B = self.adapter_weight("A", adapter), self.adapter_weight("B", adapter)
        g = gates(router_logits(x, Router(self.adapter_weight("gate", adapter))), config.top_k)
        flat = x.reshape(-1, self.in_features)
        if config.dropout and self.training:
            # A mask for each expert: N different inputs, so N products, batched.
            masked = F.dropout(flat.expand(len(A), *flat.shape), config.dropout)
            u = torch.matmul(masked, A.transpose(1, 2)).transpose(0, 1).flatten(1)
        else:
            u = F.linear(flat, A.flatten(0, 1))  # [tokens, N*r]
        up = (config.scale * B if config.scale != 1 else B).transpose(0, 1).flatten(1)  # [out, N*r]
        y = _GatedUp.apply(u, g.reshape(-1, g.shape[-1]), up.to(u.dtype), config.rescale_gate)
        return y.reshape(*x.shape[:-1], self.out_features)


def gates(logits: Tensor, top_k: int) -> Tensor:
    """``softmax(logits)`` cut to the ``top_k`` largest of each token and renormalised to sum to 1, ``(..., N)``."""
    kept, which = logits.topk(top_k, dim=-1)
    # The softmax of the kept logits is just that, and its gradient is exactly 0 where it is 1 (top_k = 1): a quotient
    # would leave rounding noise, which Adam scales up to full steps.
    return torch.zeros_like(logits).scatter(-1, which, kept.softmax(dim=-1))


class _GatedUp(torch.autograd.Function):
    """``y = sum_i g_i B_i u_i``, whose gradient to ``u_i`` and ``B_i`` may carry ``sqrt(g_i)`` in place of ``g_i``.

    RieMoE-LoRA writes it as ``sg(sqrt(g)) E + (g - sg(sqrt(g))) sg(E)`` with ``E_i = B_i u_i`` and sg a stopped
    gradient. Here no ``E_i`` is ever formed: with ``z = dy B`` (``[tokens, N*r]``), the gradient of ``g_i`` is the sum
    over r of ``z * u``, that of ``u`` is ``f * z`` and that of B is ``dy^T (f * u)``, f being ``g`` or its root.

    Shapes: ``u`` ``[tokens, N*r]``, ``g`` ``[tokens, N]``, ``B`` ``[out, N*r]``; the result is ``[tokens, out]``.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, g: Tensor, B: Tensor, root: bool) -> Tensor:
        ctx.save_for_backward(u, g, B)
        ctx.root = root
        return F.linear(_weighted(u, g), B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        u, g, B = ctx.saved_tensors
        factor = g.sqrt() if ctx.root else g
        z = dy @ B
        dg = (z * u).unflatten(-1, (g.shape[-1], -1)).sum(dim=-1, dtype=g.dtype)
        return _weighted(z, factor), dg, dy.T @ _weighted(u, factor), None


def _weighted(u: Tensor, g: Tensor) -> Tensor:
    """``g_i u_i`` for ``u`` ``[tokens, N*r]`` and ``g`` ``[tokens, N]``."""
    return (u.unflatten(-1, (g.shape[-1], -1)) * g.to(u.dtype).unsqueeze(-1)).flatten(1)
