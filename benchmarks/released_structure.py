"""The paper's formula in the structure of the released code, which every other form is compared with.

One ``nn.Module`` for each specialised module, called one after the other; their outputs are stacked along a new last
dimension, weighted and summed. Nothing else of the released code is in it: the formula is Eq. 12, and its numbers are
those of :mod:`hycam.ops.reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hycam.ops.routing import at_least_float32
from hycam.ops.weights import Dense, LowRank, Modulation


class SpecializedModule(nn.Module):
    """``SiLU(h A N B)`` (Eq. 6 and 7), three linear layers: ``(batch, seq, d) -> (batch, seq, d)``."""

    def __init__(self, A: Tensor, N: Tensor, B: Tensor) -> None:
        super().__init__()
        self.A, self.N, self.B = _linear(A), _linear(N), _linear(B)

    def forward(self, h: Tensor) -> Tensor:
        return F.silu(self.B(self.N(self.A(h))))


class ReleasedStructure(nn.Module):
    """``a * (1 + SiLU(h W_shared) + sum_k p_k SiLU(h A_k N_k B_k))``, with p the Gumbel-softmax of ``h W_r``.

    Everything is computed in the type of the weights, as plain modules do; only the softmax is at least float32.

    Args:
        weights: the paper's variant, a full shared module, low-rank specialised ones and soft routing, without biases
            and factor. They are copied.
        stack_dim: where the stack has its new dimension. Last, as in the released code, the K values of a feature lie
            side by side in memory; at 0 each module's output stays in one piece, which is faster on a CPU.
    """

    def __init__(self, weights: Modulation, stack_dim: int = -1) -> None:
        super().__init__()
        self.stack_dim = stack_dim
        shared, specialized, router = weights.shared, weights.specialized, weights.router
        assert isinstance(shared, Dense) and isinstance(specialized, LowRank) and router is not None
        self.shared = _linear(shared.weight)
        self.specialized = nn.ModuleList(
            SpecializedModule(*factors) for factors in zip(specialized.A, specialized.N, specialized.B, strict=True)
        )
        self.router = _linear(router.weight)
        self.temperature = router.temperature

    def forward(self, h: Tensor, a: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The output ``(batch, seq, d)``, in the type of ``a``, and ``(p, logits)``, each ``(batch, seq, K)``."""
        h = h.to(self.shared.weight.dtype)
        logits = at_least_float32(self.router(h))
        p = F.softmax((logits + noise) / self.temperature, dim=-1)
        stack = torch.stack([module(h) for module in self.specialized], dim=self.stack_dim)  # [batch, seq, d, K]
        shares = p.to(h.dtype).unsqueeze(-2).movedim(-1, self.stack_dim)  # [batch, seq, 1, K]
        routed = (stack * shares).sum(dim=self.stack_dim)
        fused = F.silu(self.shared(h)) + routed
        return (a * (1 + fused)).to(a.dtype), (p, logits)


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    return linear
