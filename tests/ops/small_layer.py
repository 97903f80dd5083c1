"""A layer of the paper's form, small, and what its forward and backward keep and multiply."""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmarks.counting import saved_bytes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hycam.ops import Dense, LowRank, Modulation, Router

K, R, D, TOKENS = 5, 4, 32, 40


def paper_form(dtype: torch.dtype = torch.float32) -> Modulation:
    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(dtype).requires_grad_()

    return Modulation(Dense(draw(D, D)), LowRank(draw(K, R, D), draw(K, R, R), draw(K, D, R)), Router(draw(K, D)))


def hidden_state(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, TOKENS, D, dtype=dtype, requires_grad=True)


def kept_bytes(form: Callable, weights: Modulation, h: Tensor, a: Tensor) -> int:
    """Of everything kept for the backward pass but the weights."""
    values = [value for part in vars(weights).values() for value in vars(part).values()]
    return saved_bytes(lambda: form(h, a, weights), [value for value in values if isinstance(value, Tensor)])


def assert_compiled_is_one_graph(form: Callable) -> None:
    """And its gradients are those of the plain form."""
    torch.manual_seed(0)
    weights, h, a = paper_form(torch.float64), hidden_state(torch.float64), hidden_state(torch.float64)
    compiled = torch.compile(form, backend="aot_eager", fullgraph=True)
    got, expected = (torch.autograd.grad(one(h, a, weights)[0].sum(), (h, a)) for one in (compiled, form))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def multiplications(form: Callable, weights: Modulation, h: Tensor, a: Tensor) -> int:
    """Of all matrix products in forward and backward."""

    def added_in_place(_: torch.Size, x: torch.Size, y: torch.Size, **kwargs: object) -> int:
        return 2 * x[0] * x[1] * y[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place}) as counter:
        form(h, a, weights)[0].sum().backward()
    return counter.get_total_flops() // 2
