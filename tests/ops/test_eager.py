"""What the eager form promises beyond its results: nothing is computed or kept twice."""

from __future__ import annotations

import pytest
import torch

from hycam.ops import eager
from ops.small_layer import (
    TOKENS,
    D,
    K,
    R,
    assert_compiled_is_one_graph,
    hidden_state,
    kept_bytes,
    multiplications,
    paper_form,
)


def test_every_map_is_computed_once_and_the_inner_ones_as_one() -> None:
    shared, inner, outer, router = D * D, K * R * D, K * R * D, K * D
    composed = 3 * K * R * R * D  # A and N, and the gradients of both
    expected = 3 * (shared + inner + outer + router) * TOKENS + composed
    assert multiplications(eager.modulate, paper_form(), hidden_state(), hidden_state()) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_kept_are_h_and_a_and_what_goes_into_the_silus_and_p(dtype: torch.dtype, adapter: torch.dtype) -> None:
    weights, h, a = paper_form(adapter), hidden_state(dtype), hidden_state(dtype)
    inputs, activations, p = 2 * D * dtype.itemsize, ((K + 1) * D + K * R) * adapter.itemsize, K * 4
    composed = K * R * D * adapter.itemsize  # A and N
    widened = 0 if adapter == torch.float32 else K * D * 4  # the router
    assert kept_bytes(eager.modulate, weights, h, a) == TOKENS * (inputs + activations + p) + composed + widened


def test_compiled_it_is_one_graph() -> None:
    assert_compiled_is_one_graph(eager.modulate)
