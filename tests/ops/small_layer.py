"""A layer of the paper's form, small, and what its forward and backward keep and multiply."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
    """Of all that is kept for the backward pass and is no weight."""
    parameters = [tensor for part in vars(weights).values() for tensor in vars(part).values()]
    there = {tensor.untyped_storage().data_ptr() for tensor in parameters if isinstance(tensor, Tensor)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = form(h, a, weights)
    del result
    return sum(kept.values())


def multiplications(form: Callable, weights: Modulation, h: Tensor, a: Tensor) -> int:
    """Of all matrix products in forward and backward."""

    def added_in_place(_: torch.Size, x: torch.Size, y: torch.Size, **kwargs: object) -> int:
        return 2 * x[0] * x[1] * y[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place}) as counter:
        form(h, a, weights)[0].sum().backward()
    return counter.get_total_flops() // 2
