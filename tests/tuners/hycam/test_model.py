"""The tuner: targets, several adapters, merging, loading, paths on which the balance loss cannot act."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model

import hycam
from architectures import tiny, tokens
from hycam import HyCAMConfig, MoeLoraConfig
from hycam.errors import HycamError
from hycam.tuners.hycam import HyCAMLayer


def config(**settings) -> HyCAMConfig:
    return HyCAMConfig(**{"task_type": "CAUSAL_LM", "r": 4, **settings})


def adapted_layers(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, HyCAMLayer)]


@pytest.mark.parametrize("target", ["all-linear", ["q_proj"], r".*q_proj", ["self_attn", "down_proj"], ["mlp"]])
def test_targets_other_than_attention_modules_are_refused_before_anything_is_wrapped(target) -> None:
    base = tiny()
    with pytest.raises(HycamError, match=r"not one of the attention modules.*self_attn"):
        get_peft_model(base, config(target_modules=target))
    assert not adapted_layers(base)


def test_layers_can_be_chosen_by_index_by_name_and_by_exclusion() -> None:
    full = "base_model.model.model.layers.{}.self_attn".format
    for settings, kept in (
        ({"layers_to_transform": [1]}, [full(1)]),
        ({"layers_to_transform": 0, "target_modules": ["self_attn"]}, [full(0)]),
        ({"target_modules": ["layers.1.self_attn"]}, [full(1)]),
        ({"target_modules": r".*\.0\.self_attn"}, [full(0)]),
        ({"exclude_modules": ["layers.0.self_attn"]}, [full(1)]),
    ):
        assert adapted_layers(get_peft_model(tiny(), config(**settings))) == kept


def test_an_attention_module_of_another_width_is_named() -> None:
    model = get_peft_model(tiny(), config())
    layer = next(module for module in model.modules() if isinstance(module, HyCAMLayer))
    layer.base_layer.forward = lambda hidden_states, **_: (torch.cat((hidden_states, hidden_states), -1), None)
    with pytest.raises(HycamError, match=r"model\.layers\.0\.self_attn takes .* 32 and returns one of 64"):
        model(input_ids=tokens())


def test_an_attention_module_called_weight_works_all_the_way(tmp_path) -> None:
    def build():
        base = tiny()
        for layer in base.model.layers:
            layer.weight, attention = layer.self_attn, layer.self_attn
            del layer.self_attn
            object.__setattr__(layer, "self_attn", None)
            layer.forward = _forward_through_weight.__get__(layer)
            assert layer.weight is attention
        return base

    base = build()
    expected = base(input_ids=tokens()).logits
    model = get_peft_model(base, config(init_weights=False)).eval()
    changed = model(input_ids=tokens()).logits
    assert not torch.equal(changed, expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(build(), tmp_path)(input_ids=tokens()).logits, changed)
    assert torch.equal(model.unload()(input_ids=tokens()).logits, expected)


def _forward_through_weight(self, hidden_states, **kwargs):
    attended, _ = self.weight(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    hidden_states = hidden_states + attended
    return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def test_two_active_adapters_and_an_adapter_for_each_row_are_refused() -> None:
    model = get_peft_model(tiny(), config())
    model.add_adapter("other", config())
    with pytest.raises(ValueError, match="One adapter of this kind is active at a time"):
        model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="One adapter of this kind is active at a time"):
        model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="adapter_names"):
        model(input_ids=tokens(), adapter_names=["default", "other"])
    assert model.base_model.active_adapters == ["default"]


@pytest.mark.parametrize("settings", [config(init_weights=False), MoeLoraConfig(r=4, init_weights=False)])
@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_says_why_it_cannot_be_done_and_changes_nothing(merge: str, settings: PeftConfig) -> None:
    # The embedding comes before every adapted layer: PEFT would have put its trained copy in before it met the first.
    model = get_peft_model(tiny(), replace(settings, modules_to_save=["embed_tokens"])).eval()
    before, expected = [type(module) for module in model.modules()], model(input_ids=tokens()).logits
    with pytest.raises(ValueError, match=r"cannot be merged: .* depends on the input"):
        getattr(model, merge)()
    assert [type(module) for module in model.modules()] == before
    assert torch.equal(model(input_ids=tokens()).logits, expected)


def test_the_auto_class_loads_backbone_and_adapter_from_the_adapters_folder(tmp_path) -> None:
    tiny().save_pretrained(tmp_path / "backbone")
    base = type(tiny()).from_pretrained(tmp_path / "backbone")
    model = get_peft_model(base, config(init_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded(input_ids=tokens()).logits, model(input_ids=tokens()).logits)


def test_reentrant_checkpointing_is_refused_and_the_setting_named() -> None:
    model = get_peft_model(tiny(), config()).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match=r"use_reentrant.*False"):
        model(input_ids=tokens(), labels=tokens(), use_cache=False)


def count(messages: list[warnings.WarningMessage], words: str) -> int:
    return sum(words in str(message.message) for message in messages)


def test_a_training_forward_without_labels_warns_once() -> None:
    model = get_peft_model(tiny(), config()).train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model(input_ids=tokens())
    assert count(caught, "balance loss") == 1
    assert count(caught, "compute_loss_func") == 1


def test_an_adapter_added_without_the_tuners_forward_warns_once() -> None:
    base = tiny()
    base.add_adapter(config())
    base.train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            base(input_ids=tokens(), labels=tokens()).loss.backward()
    assert count(caught, "without the tuner's forward") == 1


def test_nothing_is_warned_about_where_there_is_nothing_to_add() -> None:
    for settings in ({"specialized": "none"}, {"balance_weight": 0.0}):
        model = get_peft_model(tiny(), config(**settings)).train()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model(input_ids=tokens())


def test_the_statistics_of_a_model_without_hycam_are_an_error() -> None:
    with pytest.raises(ValueError, match="no HyCAM adapter"):
        hycam.last_stats(tiny())
