"""The maps of :mod:`hycam.ops.lean`, which compute what goes into each SiLU when it is wanted, some tokens at a time.

All three classes are :class:`hycam.ops.mixing.PreActivations`. Once the gradients of all rows are taken, ``add_to``
adds the gradient of h to another, and ``gradients`` gives those of the tensors. ``kept`` is what the backward pass
needs again, besides h. Everything has the type of h, except sums over chunks, which are at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.mixing import write_product
from hycam.ops.routing import at_least_float32
from hycam.ops.weights import Dense, LowRank

Gradients = tuple[Tensor | None, ...]


class DenseMap:
    """``w = h W + b``: the shared module, of the tensors of a :class:`hycam.ops.weights.Dense`.

    The gradient of w is gathered for all tokens and multiplied once. It is as large as a hidden state; but the gradient
    of W, added up over chunks, would be there in float32 and once more as a term, which in a wide model is larger.
    """

    modules = 1
    kept = None

    def __init__(self, h: Tensor, weights: Dense, needs: Sequence[bool], needs_h: bool, kept: None = None) -> None:
        self.h = h
        self.weight, self.bias = weights.weight, weights.bias
        self.trains_weight, self.trains_bias = needs
        self.is_needed = needs_h or any(needs)
        self.gradient = torch.empty_like(h) if self.is_needed else h

    def pre_activation(self, k: int, rows: slice) -> Tensor:
        return F.linear(self.h[rows], self.weight, self.bias)

    def take(self, k: int, rows: slice, slope: Tensor, gradient: Tensor) -> None:
        write_product(slope, gradient, self.gradient[rows])

    def add_to(self, h_gradient: Tensor | None) -> Tensor:
        return _plus_product(h_gradient, self.gradient, self.weight)

    def gradients(self) -> Gradients:
        weight = self.gradient.T @ self.h if self.trains_weight else None
        return weight, _row_sum(self.gradient) if self.trains_bias else None


class DenseMaps:
    """``w_k = h W_k + b_k``: K specialised modules, of the tensors of a :class:`hycam.ops.weights.Dense`.

    Gathered, their gradients would be K hidden states; so all is multiplied chunk by chunk.
    """

    kept = None

    def __init__(self, h: Tensor, weights: Dense, needs: Sequence[bool], needs_h: bool, kept: None = None) -> None:
        self.h = h
        self.linear = _Stack(weights.weight, weights.bias, *needs)
        self.modules = len(self.linear.weights)
        self.is_needed = needs_h or any(needs)
        self.h_gradient = torch.zeros_like(h) if needs_h else None

    def pre_activation(self, k: int, rows: slice) -> Tensor:
        return self.linear.forward(k, self.h[rows])

    def take(self, k: int, rows: slice, slope: Tensor, gradient: Tensor) -> None:
        gradient = slope.mul_(gradient).to(self.h.dtype)
        self.linear.take(k, self.h[rows], gradient)
        if self.h_gradient is not None:
            self.h_gradient[rows].addmm_(gradient, self.linear.weights[k])

    def add_to(self, h_gradient: Tensor | None) -> Tensor:
        assert self.h_gradient is not None
        return self.h_gradient if h_gradient is None else h_gradient.add_(self.h_gradient)

    def gradients(self) -> Gradients:
        return self.linear.gradients()


class LowRankMaps:
    """``w_k = s (((h A_k + a_k) N_k + n_k) B_k + b_k)``: one module or K, of a :class:`hycam.ops.weights.LowRank`.

    A and N are multiplied first, so that ``v_k = h (A_k N_k) + (a_k N_k + n_k)`` is one product for all modules. That
    costs r by r by d once, and saves r by r for every token, forward, again and backward. Kept is v, ``[tokens, K*r]``.
    """

    def __init__(
        self, h: Tensor, weights: LowRank, needs: Sequence[bool], needs_h: bool, kept: Tensor | None = None
    ) -> None:
        d, r = weights.B.shape[-2:]
        self.h, self.scale = h, weights.scale
        self.A, self.N, B = weights.A.reshape(-1, r, d), weights.N.reshape(-1, r, r), weights.B.reshape(-1, d, r)
        self.A_bias, self.N_bias = _columns(weights.A_bias, r), _columns(weights.N_bias, r)
        self.modules = len(B)
        # The scale goes into B, which is smaller than what B gives.
        B_bias = None if weights.B_bias is None else self.scale * weights.B_bias.reshape(-1, d)
        self.outer = _Stack(self.scale * B, B_bias, needs[2], needs[5])
        inner, bias = weights.inner()
        self.inner = inner.reshape(-1, d)  # [K*r, d]
        self.kept = F.linear(h, self.inner, None if bias is None else bias.flatten()) if kept is None else kept
        self.v = self.kept.chunk(self.modules, dim=-1)
        self.trains_inner = any(needs[at] for at in (0, 1, 3, 4))
        self.is_needed = needs_h or any(needs)
        self.v_gradient = torch.empty_like(self.kept) if needs_h or self.trains_inner else None
        self.v_gradients = () if self.v_gradient is None else self.v_gradient.chunk(self.modules, dim=-1)

    def pre_activation(self, k: int, rows: slice) -> Tensor:
        return self.outer.forward(k, self.v[k][rows])

    def take(self, k: int, rows: slice, slope: Tensor, gradient: Tensor) -> None:
        gradient = slope.mul_(gradient).to(self.h.dtype)
        self.outer.take(k, self.v[k][rows], gradient)
        if self.v_gradients:
            self.v_gradients[k][rows] = gradient @ self.outer.weights[k]

    def add_to(self, h_gradient: Tensor | None) -> Tensor:
        assert self.v_gradient is not None
        return _plus_product(h_gradient, self.v_gradient, self.inner)

    def gradients(self) -> Gradients:
        A = N = A_bias = N_bias = None
        if self.trains_inner and self.v_gradient is not None:
            wide_A, wide_N = at_least_float32(self.A), at_least_float32(self.N)
            inner = at_least_float32(self.v_gradient.T @ self.h).view(self.A.shape)
            A, N = wide_N.mT @ inner, inner @ wide_A.mT
            N_bias = _row_sum(self.v_gradient).view(self.modules, -1, 1)
            if self.A_bias is not None:
                A_bias = wide_N.mT @ N_bias
                N += N_bias @ at_least_float32(self.A_bias).mT
        B, B_bias = (None if gradient is None else self.scale * gradient for gradient in self.outer.gradients())
        return A, N, B, A_bias, N_bias, B_bias


class _Stack:
    """K maps ``x W_k + b_k``, with W ``[K, out, in]`` and b ``[K, out]`` or None, and their gradients over chunks."""

    def __init__(self, weight: Tensor, bias: Tensor | None, trains_weight: bool, trains_bias: bool) -> None:
        self.weights = weight.unbind()
        self.biases: Sequence[Tensor | None] = [None] * len(weight) if bias is None else bias.unbind()
        self.trains_weight, self.trains_bias = trains_weight, trains_bias
        self.weight_sums: dict[int, Tensor] = {}
        self.bias_sums: dict[int, Tensor] = {}

    def forward(self, k: int, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[k], self.biases[k])

    def take(self, k: int, x: Tensor, gradient: Tensor) -> None:
        """Adds what W_k and b_k get from the ``gradient`` ``[tokens, out]`` of the result for ``x``."""
        if self.trains_weight:
            self.weight_sums[k] = _plus(self.weight_sums.get(k), gradient.T @ x)
        if self.trains_bias:
            self.bias_sums[k] = _plus(self.bias_sums.get(k), _row_sum(gradient))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        weight = torch.stack(tuple(self.weight_sums.values())) if self.trains_weight else None
        return weight, torch.stack(tuple(self.bias_sums.values())) if self.trains_bias else None


def _columns(bias: Tensor | None, r: int) -> Tensor | None:
    return None if bias is None else bias.reshape(-1, r, 1)


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    # The first term is only made wider when there is a second.
    return term if total is None else at_least_float32(total).add_(term)


def _plus_product(total: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight if total is None else total.addmm_(x, weight)


def _row_sum(gradient: Tensor) -> Tensor:
    return at_least_float32(gradient).sum(dim=0)
