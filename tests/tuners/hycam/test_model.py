"""The tuner: targets, several adapters, merging, loading, paths on which the balance loss cannot act."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import hycam
from architectures import tiny, tokens
from hycam import HyCAMConfig
from hycam.errors import HycamError
from hycam.tuners.hycam import HyCAMLayer


def config(**settings) -> HyCAMConfig:
    return HyCAMConfig(**{"task_type": "CAUSAL_LM", "r": 4, **settings})


def adapted_layers(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, HyCAMLayer)]


@pytest.mark.parametrize("target", ["all-linear", ["q_proj"], r".*q_proj", ["self_attn", "down_proj"], ["mlp"]])
def test_targets_other_than_attention_modules_are_refused_before_anything_is_wrapped(target) -> None:
    base = tiny()
    with pytest.raises(HycamError, match=r"no attention module that.*self_attn"):
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


def test_a_layer_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(HycamError, match=r"matches nothing in the layers \[7\]"):
        get_peft_model(tiny(), config(layers_to_transform=[7]))


class _Tower(nn.Module):
    """Something else in the model that has a module of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Linear(4, 4)


def test_a_vision_tower_with_modules_of_the_same_name_is_left_alone() -> None:
    base = tiny()
    base.tower = _Tower()
    model = get_peft_model(base, config(layers_to_transform=[1]))
    assert adapted_layers(model) == ["base_model.model.model.layers.1.self_attn"]


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


def test_an_adapter_called_hycam_behaves_like_any_other(tmp_path) -> None:
    model = get_peft_model(tiny(), config(init_weights=False), adapter_name="hycam").eval()
    expected = model(input_ids=tokens()).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(), tmp_path / "hycam", adapter_name="hycam")
    assert torch.equal(loaded(input_ids=tokens()).logits, expected)
    loaded.delete_adapter("hycam")
    assert torch.equal(loaded(input_ids=tokens()).logits, tiny()(input_ids=tokens()).logits)


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_says_why_it_cannot_be_done(merge: str) -> None:
    model = get_peft_model(tiny(), config(init_weights=False))
    with pytest.raises(ValueError, match="depends on the input"):
        getattr(model, merge)()
    assert len(adapted_layers(model)) == 2


def test_the_auto_class_loads_backbone_and_adapter_from_the_adapters_folder(tmp_path) -> None:
    tiny().save_pretrained(tmp_path / "backbone")
    base = type(tiny()).from_pretrained(tmp_path / "backbone")
    model = get_peft_model(base, config(init_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded(input_ids=tokens()).logits, model(input_ids=tokens()).logits)


RELEASED = {"modulation_target": "residual_stream", "train_router": False, "train_norms": True, "routing": "hard",
            "noise": "always", "alpha": 32, "use_bias": True, "router_bias": True, "balance_weight": 0.0}  # fmt: skip


@pytest.mark.parametrize(("d", "layers", "trained", "frozen"), [(576, 30, 21_784_320, 86_550), (32, 2, None, None)])
def test_the_released_codes_form_has_as_many_weights_as_its_formula_says(
    d: int, layers: int, trained: int | None, frozen: int | None
) -> None:
    settings = {"vocab_size": 96, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    backbone = AutoConfig.for_model("llama", hidden_size=d, num_hidden_layers=layers, **settings)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(backbone)
    model = get_peft_model(base, config(r=64, num_specialized=5, **RELEASED), low_cpu_mem_usage=True)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    routers = [p for name, p in model.named_parameters() if "hycam_router" in name]
    module = 2 * d * 64 + 64**2 + 2 * 64 + d  # A, N, B and their biases
    assert counted == layers * (d**2 + d + 5 * module + 2 * d)
    assert sum(p.numel() for p in routers) == layers * (5 * d + 5)
    assert not any(p.requires_grad for p in routers)
    if trained is not None:
        assert (counted, sum(p.numel() for p in routers)) == (trained, frozen)


def test_the_released_codes_form_learns_through_a_stock_optimiser() -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny(), config(**RELEASED)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_an_adapter_of_another_width_is_refused_with_both_shapes(tmp_path) -> None:
    get_peft_model(tiny(), config()).save_pretrained(tmp_path)
    with pytest.raises(HycamError, match=r", 32\] in the file and \[.*, 48\] here"):
        PeftModel.from_pretrained(tiny(hidden_size=48), tmp_path)


def test_an_adapter_of_a_deeper_backbone_is_refused(tmp_path) -> None:
    get_peft_model(tiny(num_hidden_layers=3), config()).save_pretrained(tmp_path)
    with pytest.raises(HycamError, match=r"no place for.*layers\.2\."):
        PeftModel.from_pretrained(tiny(), tmp_path)


def test_deleting_the_active_one_of_two_activates_the_other() -> None:
    model = get_peft_model(tiny(), config(init_weights=False)).eval()
    model.add_adapter("other", config(init_weights=False))
    model.set_adapter("other")
    expected = model(input_ids=tokens()).logits
    model.set_adapter("default")
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert torch.equal(model(input_ids=tokens()).logits, expected)


def test_an_adapter_with_weights_missing_is_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    get_peft_model(tiny(), config()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    del weights["base_model.model.model.layers.1.self_attn.hycam_B"]
    save_file(weights, path)
    with pytest.raises(HycamError, match=r"layers\.1\.self_attn\.hycam_B.*missing"):
        PeftModel.from_pretrained(tiny(), tmp_path)


def test_reentrant_checkpointing_is_refused_and_the_setting_named() -> None:
    model = get_peft_model(tiny(), config()).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match=r"use_reentrant.*False"):
        model(input_ids=tokens(), labels=tokens(), use_cache=False)


def test_a_frozen_input_embedding_does_not_stop_the_gradient_under_checkpointing() -> None:
    model = get_peft_model(tiny(), config()).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert not model.get_input_embeddings().weight.requires_grad
    model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
    for layer in (m for m in model.modules() if isinstance(m, HyCAMLayer)):
        assert layer.hycam_router["default"].weight.grad.abs().sum() > 0


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
