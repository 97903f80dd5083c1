"""The attention modules are found by structure."""

from __future__ import annotations

import pytest
from torch import nn

from architectures import ARCHITECTURES, REFUSED, tiny
from hycam.attention import find_attention_modules
from hycam.errors import HycamError
from hycam.methods import adapt


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_attention_module_a_layer_is_found_in_every_architecture(architecture: str) -> None:
    model = tiny(architecture)
    found = find_attention_modules(model)
    assert len(found) == 2
    assert all("Attention" in type(model.get_submodule(name)).__name__ for name in found)


def test_the_modules_are_found_again_when_they_are_already_adapted() -> None:
    model = tiny("gpt_neo")
    found = find_attention_modules(model)
    assert find_attention_modules(adapt(model, "hycam", {"r": 2}).base_model.model) == found


@pytest.mark.parametrize("architecture", REFUSED)
def test_a_backbone_whose_attention_output_cannot_be_scaled_is_refused_with_the_reason(architecture: str) -> None:
    reason = "key-value cache" if architecture == "mamba" else "adds the residual stream"
    with pytest.raises(HycamError, match=reason):
        find_attention_modules(tiny(architecture))


def test_an_architecture_nobody_has_seen_is_found_by_its_shape() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Linear(4, 4)

        def forward(self, hidden_states, some_mask, past_key_values=None):
            return self.weight(hidden_states), None

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Attending()  # a module of that name, which PEFT takes for a tensor
            self.mixer = nn.Linear(4, 4)

        def forward(self, hidden_states, mask, past_key_values=None):
            return self.weight(hidden_states, mask)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.ModuleList([Block(), Block()])

    assert find_attention_modules(Model()) == ["trunk.0.weight", "trunk.1.weight"]
