"""The weights of one modulation, as the arithmetic sees them: plain tensors, no modules, no adapter names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """A full map of the hidden state: ``weight`` ``[d, d]`` (out by in), or ``[K, d, d]`` for K specialised modules."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class LowRank:
    """The structured low-rank map B N A of SLoRA (Eq. 7), alone or stacked over K specialised modules.

    Shapes with K in front where stacked: ``A`` ``[r, d]``, ``N`` ``[r, r]``, ``B`` ``[d, r]``, biases ``[r]``, ``[r]``
    and ``[d]``. ``scale`` multiplies what B gives, its bias included, inside the SiLU (the paper has 1).
    """

    A: Tensor
    N: Tensor
    B: Tensor
    A_bias: Tensor | None = None
    N_bias: Tensor | None = None
    B_bias: Tensor | None = None
    scale: float = 1.0

    def inner(self) -> tuple[Tensor, Tensor | None]:
        """``N A`` ``[r, d]`` and ``N a + n`` ``[r]``, with K in front where stacked: what lies before B as one map."""
        bias = self.N_bias
        if self.A_bias is not None:
            passed_on = (self.N @ self.A_bias.unsqueeze(-1)).squeeze(-1)
            bias = passed_on if bias is None else passed_on + bias
        return self.N @ self.A, bias


@dataclass(frozen=True)
class Router:
    """The token-wise router of Eq. 8 and 9: ``weight`` ``[K, d]``, ``bias`` ``[K]``, tau, soft or hard routing."""

    weight: Tensor
    bias: Tensor | None = None
    temperature: float = 0.5
    hard: bool = False


@dataclass(frozen=True)
class Modulation:
    """Everything that Eq. 5 to 12 need for one layer. ``specialized`` and ``router`` are both there or both absent."""

    shared: Dense | LowRank | None
    specialized: Dense | LowRank | None
    router: Router | None

    def tensors(self) -> list[Tensor]:
        """Every tensor, in a fixed order."""
        parts = (self.shared, self.specialized, self.router)
        return [
            value for part in parts if part is not None for value in vars(part).values() if isinstance(value, Tensor)
        ]
