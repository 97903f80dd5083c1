"""The memory that the lean form promises, counted at the benchmark's shape."""

from __future__ import annotations

import pytest
import torch
from benchmarks.layer_forms import LLAMA_2_7B, SMOLLM2, Layer, Shape
from benchmarks.modulation_memory import TYPES, peak, saved


@pytest.mark.parametrize("types", TYPES)
def test_lean_keeps_a_fifth_of_what_the_released_structure_keeps_and_peaks_at_a_third(types: str) -> None:
    layer = Layer(SMOLLM2, *TYPES[types], device="cpu")
    kept, most = saved(layer), peak(layer)
    assert kept["lean"] <= 0.22 * kept["released"]
    assert most["lean"] <= 0.35 * most["released"]


def test_at_the_width_of_a_large_model_lean_keeps_less_still() -> None:
    # All that is kept grows with the tokens, so few show it.
    layer = Layer(Shape(LLAMA_2_7B.d, 1, 16), torch.float32, torch.float32, device="cpu")
    kept = saved(layer)
    assert kept["lean"] <= 0.17 * kept["released"]


def test_lean_keeps_the_inputs_and_low_rank_activations_and_nothing_else_that_grows_with_the_width() -> None:
    def kept(d: int) -> int:
        return saved(Layer(Shape(d, 2, 32), torch.float32, torch.float32, device="cpu"))["lean"]

    hidden_states = (kept(1024) - kept(512)) / (2 * 32 * 512 * 4)
    assert hidden_states == 2  # h and a
