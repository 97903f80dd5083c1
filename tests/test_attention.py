"""The attention modules are found by structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import ARCHITECTURES, REFUSED, tiny, tokens
from hycam.adapt import adapt
from hycam.attention import find_attention_modules, find_block_norms
from hycam.errors import HycamError


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_norms_that_the_blocks_hold_are_found_and_no_others(architecture: str) -> None:
    model = tiny(architecture)
    attention = find_attention_modules(model)
    found = find_block_norms(model, attention)
    assert found == find_block_norms(model, attention[:1]) + find_block_norms(model, attention[1:])
    depth = {"opt": 4}.get(architecture, 3)  # such as model.layers.0, before the norm's own name
    norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    assert found == [name for name in norms if len(name.split(".")) == depth + 1]
    assert len(found) >= 2


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


# The block normalises after the attention and not before it, so h is the residual stream itself.
NOT_NORMALISED = {"olmo2"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_h_is_the_output_of_a_norm_where_the_block_has_one_before_the_attention(
    architecture: str, record_property
) -> None:
    model = tiny(architecture)
    normalised, received = [], []
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            module.register_forward_hook(lambda module, args, output: normalised.append(output))
        if name in find_attention_modules(model):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: received.append(kwargs.get("hidden_states", args[0] if args else None)),
                with_kwargs=True,
            )
    with torch.no_grad():
        model(input_ids=tokens())
    assert len(received) == 2
    found = {any(h is output for output in normalised) for h in received}
    record_property("normalised", (architecture, found == {True}))
    assert found == {architecture not in NOT_NORMALISED}
