"""What recomputing promises beyond its results: only the inputs are kept, and the gradients are eager's to the bit."""

from __future__ import annotations

import pytest
import torch

from hycam.ops import eager, gumbel_noise, recompute
from ops.modulations import VARIANTS, draw, forward_and_backward, modulation
from ops.small_layer import TOKENS, D, assert_compiled_is_one_graph, hidden_state, kept_bytes, paper_form


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_kept_are_h_and_a_alone(dtype: torch.dtype, adapter: torch.dtype) -> None:
    weights, h, a = paper_form(adapter), hidden_state(dtype), hidden_state(dtype)
    assert kept_bytes(recompute.modulate, weights, h, a) == TOKENS * 2 * D * dtype.itemsize


@pytest.mark.parametrize(("shared", "specialized", "hard", "biases"), VARIANTS)
def test_output_routing_and_gradients_are_those_of_eager_to_the_last_bit(shared, specialized, hard, biases) -> None:
    weights = modulation(shared, specialized, hard, biases, 12, 4, 5)
    inputs, small = [draw(2, 7, 12) for _ in range(3)], torch.Size((2, 7, 5))
    noise, above = gumbel_noise(small, inputs[0].device, torch.float64), [draw(2, 7, 12), draw(*small), draw(*small)]
    both = (forward_and_backward(form.modulate, weights, inputs, noise, above) for form in (eager, recompute))
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def test_a_weight_that_changes_before_the_backward_pass_is_noticed() -> None:
    weights, h = paper_form(), hidden_state()
    output = recompute.modulate(h, hidden_state(), weights)[0]
    with torch.no_grad():
        weights.specialized.B.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_compiled_it_is_one_graph() -> None:
    assert_compiled_is_one_graph(recompute.modulate)
