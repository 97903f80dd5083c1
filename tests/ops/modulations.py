"""Modulations of every kind, drawn in float64, and what a form gives for one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from hycam.ops import Dense, LowRank, Modulation, Router

VARIANTS = [
    (shared, specialized, hard, biases)
    for shared, specialized, hard, biases in itertools.product(
        ("full", "low_rank", "none"), ("low_rank", "full", "none"), (False, True), (False, True)
    )
    if (shared, specialized) != ("none", "none")
]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 0.5


def low_rank(stack: tuple[int, ...], d: int, r: int, biases: bool, scale: float) -> LowRank:
    shapes = (r, d), (r, r), (d, r)
    offsets = [draw(*stack, rows) for rows, _ in shapes] if biases else [None] * 3
    return LowRank(*(draw(*stack, *shape) for shape in shapes), *offsets, scale)


def modulation(
    shared: str = "full", specialized: str = "low_rank", hard: bool = False, biases: bool = False,
    d: int = 12, r: int = 4, experts: int = 5,
) -> Modulation:  # fmt: skip
    shared_weights: Dense | LowRank | None = None
    if shared == "full":
        shared_weights = Dense(draw(d, d), draw(d) if biases else None)
    elif shared == "low_rank":
        shared_weights = low_rank((), d, r, biases, 0.5)
    if specialized == "none":
        return Modulation(shared_weights, None, None)
    special = low_rank((experts,), d, r, biases, 1.5) if specialized == "low_rank" else Dense(draw(experts, d, d))
    router = Router(draw(experts, d), draw(experts) if biases else None, temperature=0.7, hard=hard)
    return Modulation(shared_weights, special, router)


def converted(weights: Modulation, convert: Callable[[Tensor], Tensor]) -> Modulation:
    def of(part: Dense | LowRank | Router | None) -> Dense | LowRank | Router | None:
        if part is None:
            return None
        return type(part)(**{key: convert(v) if isinstance(v, Tensor) else v for key, v in vars(part).items()})

    return Modulation(of(weights.shared), of(weights.specialized), of(weights.router))


def forward_and_backward(
    form: Callable, weights: Modulation, inputs: list[Tensor], noise: Tensor | None, above: list[Tensor]
) -> list[Tensor]:
    """The output, p and logits, and the gradients of h, a, the residual if it is there, and all weights."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    weights = converted(weights, lambda tensor: tensor.detach().requires_grad_())
    output, routing = form(*leaves[:2], weights, noise, *leaves[2:])
    outputs = [output, *(routing or ())]
    gradients = torch.autograd.grad(outputs, [*leaves, *weights.tensors()], above[: len(outputs)])
    return [*(tensor.detach() for tensor in outputs), *gradients]
