"""The modulation map against the formula, written out in NumPy, and against what it does to the attention output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from architectures import WIDTH, tiny
from hycam.errors import HycamError
from hycam.inspection.modulation import modulation_map
from hycam.tuners.hycam import HyCAMLayer
from inspection.conftest import TEMPERATURE, adapted

IDS = [5, 17, 60, 5, 41]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def watched(model, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, HyCAMLayer]:
    """h, the attention output and the modulated one of a layer, ``[tokens, d]``."""
    module = [module for module in model.modules() if isinstance(module, HyCAMLayer)][layer]
    seen = {}
    hooks = [
        module.base_layer.register_forward_hook(
            lambda _, args, kwargs, output: seen.update(h=kwargs["hidden_states"][0], a=output[0][0]), with_kwargs=True
        ),
        module.register_forward_hook(lambda _, args, output: seen.update(out=output[0][0])),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([IDS]))
    for hook in hooks:
        hook.remove()
    return seen["h"].numpy(), seen["a"].numpy(), seen["out"].numpy(), module


def weight(module: HyCAMLayer, name: str) -> np.ndarray:
    return getattr(module, name)["default"].weight.detach().numpy()


@pytest.mark.parametrize("layer", [0, 2])
def test_both_parts_are_those_of_the_formula(layer: int) -> None:
    model = adapted()
    found = modulation_map(model, IDS, layer)
    h, a, out, module = watched(model, layer)
    shared = silu(h @ weight(module, "hycam_shared").T)
    logits = h @ weight(module, "hycam_router").T / TEMPERATURE
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    A, N, B = (weight(module, f"hycam_{letter}") for letter in "ANB")
    specialized = sum(p[:, k : k + 1] * silu(h @ A[k].T @ N[k].T @ B[k].T) for k in range(p.shape[1]))
    assert found.layer == layer
    np.testing.assert_allclose(found.shared, shared, rtol=1e-6)  # the result is float32, as the factor itself is
    np.testing.assert_allclose(found.specialized, specialized, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.total, shared + specialized, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(a * (1 + found.total), out, rtol=1e-5, atol=1e-6)


def test_ablations_lack_the_part_that_they_lack() -> None:
    only_shared = modulation_map(adapted(specialized="none"), IDS, 1)
    assert only_shared.specialized is None
    np.testing.assert_array_equal(only_shared.total, only_shared.shared)
    only_specialized = modulation_map(adapted(shared="none"), IDS, 1)
    assert only_specialized.shared is None
    np.testing.assert_array_equal(only_specialized.total, only_specialized.specialized)


def test_an_untrained_adapter_scales_nothing_and_the_middle_layer_is_shown() -> None:
    found = modulation_map(adapted(init_weights=True), IDS)
    assert found.layer == 1
    assert found.total.shape == (len(IDS), WIDTH)
    assert not found.total.any()


def test_it_is_that_of_evaluation_whatever_the_mode() -> None:
    model = adapted()
    expected = modulation_map(model, IDS, 1).total
    model.train()
    np.testing.assert_array_equal(modulation_map(model, IDS, 1).total, expected)
    assert model.training


def test_what_cannot_be_shown_is_said() -> None:
    with pytest.raises(HycamError, match="layers 0 to 2"):
        modulation_map(adapted(), IDS, 3)
    with pytest.raises(HycamError, match="no active HyCAM adapter"):
        modulation_map(adapted(layers_to_transform=[0]), IDS, 1)
    with pytest.raises(HycamError, match="no active HyCAM adapter"):
        modulation_map(get_peft_model(tiny(), LoraConfig(task_type="CAUSAL_LM", r=2)), IDS, 1)
    with pytest.raises(HycamError, match="empty"):
        modulation_map(adapted(), [], 1)
