"""What the lean form promises beyond its results: little is kept, nothing needless is computed."""

from __future__ import annotations

import pytest
import torch

from hycam.errors import HycamError
from hycam.ops import Dense, LowRank, Modulation, Router, lean, mixing
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_kept_are_h_and_a_and_the_low_rank_activations_and_p(dtype: torch.dtype, adapter: torch.dtype) -> None:
    weights, h, a = paper_form(adapter), hidden_state(dtype), hidden_state(dtype)
    hidden_states, low_rank, p = 2 * D * dtype.itemsize, K * R * adapter.itemsize, K * 4
    assert kept_bytes(lean.modulate, weights, h, a) == TOKENS * (hidden_states + low_rank + p)


def test_the_shared_map_and_the_maps_back_to_d_are_computed_twice_and_all_else_once() -> None:
    shared, inner, outer, router = D * D, K * R * D, K * R * D, K * D
    once = 3 * (shared + inner + outer + router) * TOKENS
    composed = 4 * K * R * R * D  # A and N, forward and again, and the gradients of both
    expected = once + (shared + outer) * TOKENS + composed
    assert multiplications(lean.modulate, paper_form(), hidden_state(), hidden_state()) == expected


def test_what_is_frozen_costs_nothing() -> None:
    weights, h, a = paper_form(), hidden_state(), hidden_state()
    assert isinstance(weights.shared, Dense) and isinstance(weights.specialized, LowRank)
    everything = multiplications(lean.modulate, weights, h, a)

    def saved() -> int:
        return everything - multiplications(lean.modulate, weights, h, a)

    weights.shared.weight.requires_grad_(False)
    assert saved() == TOKENS * D * D
    weights.specialized.B.requires_grad_(False)
    assert saved() == TOKENS * D * (D + K * R)
    h.requires_grad_(False)  # now nothing goes back through the shared map, A or the router
    assert saved() == TOKENS * D * (D + K * R) + TOKENS * D * (D + K * R + K)


def test_only_what_needs_a_gradient_gets_one() -> None:
    weights, h, a = paper_form(), hidden_state().detach(), hidden_state()
    assert isinstance(weights.specialized, LowRank) and weights.router is not None
    weights.specialized.N.requires_grad_(False)
    weights.router.weight.requires_grad_(False)
    lean.modulate(h, a, weights)[0].sum().backward()
    assert h.grad is None and weights.specialized.N.grad is None and weights.router.weight.grad is None
    assert a.grad is not None and weights.specialized.A.grad is not None and weights.specialized.B.grad is not None


def test_gradients_of_bfloat16_weights_add_up_in_float32_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Added up in bfloat16, a sum of ones ends at 256: with 8 bits 256 + 1 is 256.
    monkeypatch.setattr(mixing, "CPU_CHUNK", 1)
    tokens = 1000
    ones = torch.ones(1, 1, 1, dtype=torch.bfloat16)
    weights = Modulation(
        None, LowRank(ones, ones, torch.zeros_like(ones).requires_grad_()), Router(torch.zeros(1, 1).bfloat16())
    )
    h = torch.ones(1, tokens, 1, dtype=torch.bfloat16)
    lean.modulate(h, 2 * h, weights)[0].sum().backward()  # SiLU'(0) = 1/2
    assert isinstance(weights.specialized, LowRank) and weights.specialized.B.grad is not None
    assert weights.specialized.B.grad.item() == tokens


def test_a_weight_that_changes_before_the_backward_pass_is_noticed() -> None:
    weights, h = paper_form(), hidden_state()
    assert isinstance(weights.specialized, LowRank)
    output = lean.modulate(h, hidden_state(), weights)[0]
    with torch.no_grad():
        weights.specialized.B.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_second_derivatives_are_refused_with_what_to_do_instead() -> None:
    h = hidden_state()
    output, routing = lean.modulate(h, hidden_state(), paper_form())
    assert routing is not None
    with pytest.raises(HycamError, match=r'create_graph.*backend "eager"'):
        torch.autograd.grad(output.sum(), h, create_graph=True)
    with pytest.raises(HycamError, match=r'create_graph.*backend "eager"'):
        torch.autograd.grad(routing[0].square().sum(), h, create_graph=True)


def test_compiled_it_is_one_graph() -> None:
    assert_compiled_is_one_graph(lean.modulate)
