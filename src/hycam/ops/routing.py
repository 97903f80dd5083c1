"""Token-wise routing with Gumbel noise (Eq. 8 and 9) and the load-balancing loss (Eq. 10).

All of it runs in at least float32 whatever the backbone's type: bfloat16 uniform draws have coarse tails, and a mean
over thousands of tokens does not survive eight bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.weights import Router


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or unchanged where it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def router_logits(h: Tensor, router: Router) -> Tensor:
    """Eq. 8: ``h W_r``, shape ``(..., d) -> (..., K)``, outside of any autocast."""
    with torch.autocast(h.device.type, enabled=False):
        h = at_least_float32(h)
        bias = None if router.bias is None else router.bias.to(h.dtype)
        return F.linear(h, router.weight.to(h.dtype), bias)


def gumbel_noise(shape: torch.Size, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gumbel(0, 1) draws, ``-log(e)`` with e ~ Exp(1).

    They come from the global generator: gradient checkpointing saves and restores that one, so the recomputation of a
    layer replays the same noise; a private generator would not.
    """
    return -torch.empty(shape, device=device, dtype=dtype).exponential_().log()


def route(logits: Tensor, noise: Tensor | None, router: Router) -> Tensor:
    """Eq. 9: the routing probabilities p, shape ``(..., K)``.

    ``softmax((logits + noise) / tau)``; hard routing gives the one-hot argmax of it in the forward pass and its
    gradient in the backward pass (straight-through). The paper's Eq. 9 adds the noise to log(pi) with pi defined as a
    raw linear logit; as in the authors' code that is read as the logit itself. Without noise this is the evaluation
    rule: ``softmax(logits / tau)``, or the argmax.
    """
    perturbed = logits if noise is None else logits + noise
    soft = F.softmax(perturbed / router.temperature, dim=-1)
    if not router.hard:
        return soft
    chosen = F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
    return chosen + (soft - soft.detach())


def routing_sums(p: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Sums over tokens of the two factors of Eq. 10, ``[2, K]``: of p, and of softmax(logits).

    Args:
        p: routing probabilities ``(batch, seq, K)``.
        logits: router logits of the same shape.
        mask: ``(batch, seq)``, one where a token counts and zero on padding; None counts every token.
    """
    both = torch.stack((p, F.softmax(logits, dim=-1)))  # [2, batch, seq, K]
    if mask is not None:
        # Selected, not multiplied by zero: whatever a padding position holds, NaN included, must not leak.
        both = torch.where(mask[None, :, :, None].bool(), both, 0)
    return both.flatten(1, 2).sum(dim=1)


def balance_loss(sums: Tensor, tokens: Tensor | int, scope: str = "layer") -> Tensor:
    """Eq. 10: ``sum_k mean_b(p_bk) * mean_b(softmax(logits_b)_k)``, a scalar.

    It is 1/K at uniform routing and goes to 1 when all tokens go to one module.

    Args:
        sums: ``[layers, 2, K]``, :func:`routing_sums` of every layer.
        tokens: how many tokens went into the sums of one layer.
        scope: ``"layer"`` takes the product in each layer and averages over layers; ``"pooled"`` takes the means over
            layers and tokens first, so that opposite imbalances of two layers cancel.
    """
    means = sums / tokens
    if scope == "pooled":
        means = means.mean(dim=0, keepdim=True)
    return (means[:, 0] * means[:, 1]).sum(dim=-1).mean()
