"""What MultiLoRA and MoE-LoRA have in common: settings, targets, several adapters, saving and loading."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from architectures import tiny, tokens
from hycam.errors import HycamError

from .stacked import LAYERS, METHODS, adapted, attach, config, kinds, layer, linear, logits

both = pytest.mark.parametrize("method", METHODS)

SIZES = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32), "gate_proj": (32, 48),
         "up_proj": (32, 48), "down_proj": (48, 32)}  # fmt: skip  # in and out of the tiny Llama's layers
BLOCK = {name: f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in SIZES}


# The layer


@both
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_the_factors_are_drawn_as_a_linear_layer_is(method: str, kind: str) -> None:
    made = LAYERS[method](linear(kind, 48, 40))
    made.update_layer("default", config(method, r=16, init_weights=False))
    for letter, shape in (("A", (3, 16, 48)), ("B", (3, 40, 16))):
        values, fan_in = made.adapter_weight(letter, "default"), shape[-1]
        assert values.shape == shape
        assert values.abs().max() <= 1 / math.sqrt(fan_in)
        # A uniform distribution's deviation, within 5 % over 1,900 draws and more (where it scatters by 1 to 2 %).
        assert abs(values.std().item() * math.sqrt(3 * fan_in) - 1) < 0.05
        assert not torch.equal(values[0], values[1])  # drawn for each map apart


@both
def test_the_adapter_takes_the_type_and_the_device_of_its_layer(method: str) -> None:
    model = attach(method, tiny(dtype=torch.float64))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float64}
    model = get_peft_model(tiny().to("meta"), config(method), low_cpu_mem_usage=True)
    assert {p.device.type for p in model.parameters()} == {"meta"}


@both
def test_a_float32_adapter_on_a_bfloat16_layer_adds_before_it_rounds(method: str) -> None:
    made = layer(method, linear("Linear", 12, 10), torch.float32)
    made.base_layer.to(torch.bfloat16)
    x = torch.randn(50, 12).bfloat16()
    y = made(x)
    assert y.dtype == torch.bfloat16
    wide = copy.deepcopy(made).double()
    exact = made.base_layer(x).double() + (wide(x.double()) - wide.base_layer(x.double()))
    # One rounding to bfloat16, whose unit is 2^-7, so half of it; 1e-5 is what float32 loses on values of order ten.
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-5)


@both
def test_dropout_acts_in_training_only(method: str) -> None:
    made = layer(method, linear("Linear", 12, 10), dropout=0.5)
    without = copy.deepcopy(made)
    without.configs["default"].dropout = 0.0
    x = torch.randn(5, 12, dtype=torch.float64)
    assert torch.equal(made.eval()(x), without(x))
    first, second = made.train()(x), made(x)
    assert not torch.equal(first, second)
    # What the layer itself gives is not dropped: with nothing to add the result is the same in training.
    with torch.no_grad():
        made.adapter_weight("B", "default").zero_()
    assert torch.equal(made(x), made.base_layer(x))


@both
def test_an_empty_batch_goes_through(method: str) -> None:
    made = layer(method, linear("Linear", 12, 10))
    x = torch.empty(2, 0, 12, dtype=torch.float64, requires_grad=True)
    y = made(x)
    y.sum().backward()
    assert y.shape == (2, 0, 10)
    assert x.grad.shape == (2, 0, 12)


@both
def test_a_compiled_layer_has_the_same_output_and_gradients(method: str) -> None:
    made = layer(method, linear("Linear", 12, 10))
    x, results = torch.randn(2, 5, 12, dtype=torch.float64), []
    # "aot_eager" traces forward and backward as the default does, without needing a C++ compiler.
    for form in (made, torch.compile(made, backend="aot_eager", fullgraph=True)):
        y = form(x)
        gradients = torch.autograd.grad(y.square().sum(), list(made.adapter_parameters("default").values()))
        results.append((y, *gradients))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


@both
def test_autocast_keeps_the_identity_and_gives_finite_gradients(method: str) -> None:
    base = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = logits(base)
    model = attach(method, base).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(input_ids=tokens(), labels=tokens())
    assert torch.equal(out.logits, expected)
    out.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


# Targets


@both
@pytest.mark.parametrize("target", [["embed_tokens"], ["self_attn"], ["lm_head"], ["q_proj", "mlp"], r".*\.mlp.*"])
def test_a_target_that_is_no_linear_layer_is_refused_before_anything_is_wrapped(method: str, target) -> None:
    base = tiny()
    before = kinds(base)
    there = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    with pytest.raises(HycamError, match=rf"(embed_tokens|self_attn|lm_head|mlp).*one of the linear layers.*{there}\."):
        attach(method, base, target_modules=target)
    assert kinds(base) == before


@both
def test_layers_can_be_chosen_by_index_by_name_and_by_exclusion(method: str) -> None:
    def of(layers: list[int], names: list[str]) -> list[str]:
        return [f"model.layers.{index}.{BLOCK[name]}" for index in layers for name in SIZES if name in names]

    every, attention = list(SIZES), ["q_proj", "k_proj", "v_proj", "o_proj"]
    for settings, kept in (
        ({}, of([0, 1], every)),
        ({"target_modules": "all-linear"}, of([0, 1], every)),
        ({"layers_to_transform": [1]}, of([1], every)),
        ({"layers_to_transform": 0}, of([0], every)),
        ({"target_modules": "all-linear", "layers_to_transform": [1]}, of([1], every)),
        ({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0]}, of([0], ["q_proj", "up_proj"])),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, of([1], every)),
        ({"target_modules": ["model.layers.1.self_attn.q_proj"]}, of([1], ["q_proj"])),
        ({"target_modules": r".*\.0\.self_attn\..*_proj"}, of([0], attention)),
        ({"exclude_modules": ["up_proj", "gate_proj", "down_proj"]}, of([0, 1], attention)),
        ({"exclude_modules": r".*\.mlp\..*", "layers_to_transform": [1]}, of([1], attention)),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["0.self_attn.q_proj"]},
         [*of([0], ["v_proj"]), *of([1], ["q_proj", "v_proj"])]),
    ):  # fmt: skip
        assert adapted(attach(method, **settings)) == kept, settings


@both
@pytest.mark.parametrize("target", [None, "all-linear", ["q_proj"]])
def test_a_layer_that_the_backbone_has_not_is_an_error_before_anything_is_wrapped(method: str, target) -> None:
    base = tiny()
    before = kinds(base)
    with pytest.raises(ValueError, match=r"layers.*\[7\]"):
        attach(method, base, target_modules=target, layers_to_transform=[7])
    assert kinds(base) == before


@both
def test_a_model_without_a_linear_layer_is_refused(method: str) -> None:
    with pytest.raises(HycamError, match="Sequential has no linear layer"):
        get_peft_model(nn.Sequential(nn.ReLU()), config(method, task_type=None))


# Several adapters


@both
def test_a_second_adapter_takes_the_same_layers_as_the_first(method: str) -> None:
    for settings in (
        {},
        {"target_modules": r".*q_proj"},
        {"target_modules": r".*\.self_attn\..*"},  # which matches the inside of the first adapter's layers too
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
    ):
        model = attach(method, **settings)
        first = adapted(model)
        model.add_adapter("other", config(method, **settings))
        assert adapted(model) == first
        for name in first:
            made = model.base_model.model.get_submodule(name)
            for weights in made.adapter_layer_names:
                assert set(getattr(made, weights)) == {"default", "other"}


@both
def test_a_second_adapter_leaves_an_output_layer_alone_that_the_first_trains_whole(method: str) -> None:
    model = attach(method, modules_to_save=["lm_head"])
    first = adapted(model)
    model.add_adapter("other", config(method))
    assert adapted(model) == first


@both
def test_two_adapters_of_different_settings_can_be_switched_and_deleted_the_last_one_included(method: str) -> None:
    maps = "num_branches" if method == "multilora" else "num_experts"
    other = {"r": 5, maps: 4, "alpha": 3, "target_modules": ["q_proj", "down_proj"], "init_weights": False}
    base = tiny()
    plain = logits(base)
    model = attach(method, copy.deepcopy(base), layers_to_transform=[0], init_weights=False)
    first = logits(model)
    model.add_adapter("other", config(method, **other))
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    second = logits(model)
    alone = attach(method, copy.deepcopy(base), **other)
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(model.get_parameter(name.replace(".default.", ".other.")))
    assert torch.equal(logits(alone), second)
    assert {p.requires_grad for name, p in model.named_parameters() if ".default" in name} == {False}
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    assert not any(torch.equal(one, two) for one, two in ((plain, first), (first, second), (second, plain)))
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    model.delete_adapter("other")
    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model.unload()), plain)


# Saving and loading


def expected_shapes(method: str, r: int, maps: int) -> dict[str, list[int]]:
    shapes = {}
    for index in (0, 1):
        for name, (inside, outside) in SIZES.items():
            prefix = f"base_model.model.model.layers.{index}.{BLOCK[name]}.{method}_"
            shapes[f"{prefix}A"], shapes[f"{prefix}B"] = [maps, r, inside], [maps, outside, r]
            if method == "multilora":
                shapes[f"{prefix}scaling"] = [maps, outside]
            else:
                shapes[f"{prefix}gate.weight"] = [maps, inside]
    return shapes


@both
@pytest.mark.parametrize("adapter", ["default", "multilora", "moelora", "weight", "q_proj"])
def test_the_saved_keys_and_shapes_are_the_factors_and_what_weighs_them(method: str, adapter: str, tmp_path) -> None:
    model = get_peft_model(tiny(), config(method, init_weights=False), adapter_name=adapter).eval()
    model.save_pretrained(tmp_path)
    folder = tmp_path if adapter == "default" else tmp_path / adapter
    saved = load_file(folder / "adapter_model.safetensors")
    assert {key: list(value.shape) for key, value in saved.items()} == expected_shapes(method, r=2, maps=3)
    loaded = PeftModel.from_pretrained(tiny(), folder, adapter_name=adapter)
    assert torch.equal(logits(loaded), logits(model))


@both
def test_weights_that_are_missing_are_named(method: str, tmp_path: Path) -> None:
    attach(method).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[f"base_model.model.model.layers.1.mlp.up_proj.{method}_B"]
    save_file(weights, path)
    with pytest.raises(HycamError, match=rf"no weights for .*layers\.1\.mlp\.up_proj\.{method}_B.* \(1 of 42"):
        PeftModel.from_pretrained(tiny(), tmp_path)


@both
def test_weights_of_the_other_method_are_refused(method: str, tmp_path: Path) -> None:
    other = next(name for name in METHODS if name != method)
    attach(other).save_pretrained(tmp_path)
    settings = tmp_path / "adapter_config.json"
    config(method, target_modules=["q_proj"]).save_pretrained(tmp_path)
    assert json.loads(settings.read_text())["peft_type"] == method.upper()
    with pytest.raises(HycamError, match="made for another backbone or with another method"):
        PeftModel.from_pretrained(tiny(), tmp_path)


@both
def test_modules_to_save_are_trained_and_saved_with_the_adapter_and_not_adapted(method: str, tmp_path: Path) -> None:
    model = attach(method, init_weights=False, modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert adapted(loaded) == adapted(attach(method))
