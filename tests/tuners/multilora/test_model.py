"""MultiLoRA on a whole backbone: how it starts, and merging into it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model

from architectures import tiny, tokens
from hycam.tuners.multilora import MultiLoraConfig, MultiLoraLayer

from ..stacked import adapted, attach, config, kinds, logits

both = pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # nn.Linear without bias and Conv1D with


@both
def test_a_merged_backbone_is_a_plain_one_with_the_same_logits(architecture: str) -> None:
    base = tiny(architecture, dtype=torch.float64)
    before, plain = kinds(base), logits(base)
    model = attach("multilora", base, init_weights=False)
    expected = logits(model)
    assert (expected - plain).abs().max() > 1e-2
    merged = model.merge_and_unload(safe_merge=True)
    assert kinds(merged) == before
    assert merged is base
    assert not any("multilora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits(merged), expected, rtol=1e-9, atol=1e-9)


@both
def test_merging_in_place_and_back_changes_nothing_in_the_end(architecture: str) -> None:
    base = tiny(architecture)
    before, plain = copy.deepcopy(base.state_dict()), logits(base)
    model = attach("multilora", base, init_weights=False)
    expected = logits(model)
    model.merge_adapter()
    # The backbone alone has it now; float32 rounds another way, by 1e-6 of logits of order one, through two layers.
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)
    assert not torch.equal(logits(model), plain)
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    after = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_unloading_a_merged_model_leaves_the_adapter_in_and_disabling_takes_it_out() -> None:
    base = tiny(dtype=torch.float64)
    plain = logits(base)
    model = attach("multilora", base, init_weights=False)
    expected = logits(model)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), expected)


def test_the_adapter_to_merge_can_be_named() -> None:
    model = attach("multilora", tiny(dtype=torch.float64), init_weights=False, target_modules=["q_proj"])
    model.add_adapter("other", config("multilora", init_weights=False, target_modules=["v_proj"]))
    model.set_adapter("other")
    expected = logits(model)
    model.set_adapter("default")
    merged = model.merge_and_unload(adapter_names=["other"])
    assert not adapted(merged)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_a_merge_that_one_layer_refuses_changes_no_layer(merge: str) -> None:
    model = get_peft_model(tiny(), MultiLoraConfig(r=2, init_weights=False, task_type="CAUSAL_LM"))
    layers = [module for module in model.modules() if isinstance(module, MultiLoraLayer)]
    with torch.no_grad():
        layers[5].multilora_scaling["default"].weight[0, 0] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="not finite"):
        getattr(model, merge)(safe_merge=True)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in model.state_dict().items())
    assert [module for module in model.modules() if isinstance(module, MultiLoraLayer)] == layers
    assert not any(layer.merged for layer in layers)


def test_unloading_while_merged_gives_the_backbone_back() -> None:
    base = tiny()
    expected = base(input_ids=tokens()).logits
    model = get_peft_model(base, MultiLoraConfig(r=2, init_weights=False, task_type="CAUSAL_LM"))
    model.merge_adapter()
    assert torch.equal(model.unload()(input_ids=tokens()).logits, expected)


def test_layers_that_share_a_weight_are_not_merged() -> None:
    base = tiny()
    base.model.layers[1].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    model = get_peft_model(base, MultiLoraConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="share one weight"):
        model.merge_and_unload()
