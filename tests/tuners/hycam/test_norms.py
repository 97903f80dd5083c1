"""``train_norms=True``: the norms of the adapted blocks are trained with the adapter, each adapter its own copies."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from architectures import tiny, tokens
from hycam import HyCAMConfig
from hycam.errors import HycamError

NORMS = ("input_layernorm", "post_attention_layernorm")


def config(**settings) -> HyCAMConfig:
    return HyCAMConfig(**{"task_type": "CAUSAL_LM", "r": 4, "train_norms": True, **settings})


def uneven(architecture: str = "llama", dtype: torch.dtype = torch.float32, **changes) -> nn.Module:
    """A backbone whose norms are not all ones, so that a norm in the wrong place or type shows."""
    base = tiny(architecture, dtype=dtype, **changes)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return base


def trained(base: nn.Module, seed: int = 3, adapter: str = "default", **settings) -> PeftModel:
    """``base`` with an adapter of which every weight, the norms' included, is random."""
    settings = config(noise="never", **settings)
    if isinstance(base, PeftModel):
        base.add_adapter(adapter, settings)
        model = base
    else:
        model = get_peft_model(base, settings, adapter_name=adapter)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter}" in name:
                start = 0 if "hycam_" in name else parameter
                parameter.copy_(start + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=tokens()).logits


def trained_norms(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and "hycam_" not in name]


def test_untrained_they_change_nothing_under_autocast() -> None:
    for architecture in ("llama", "gpt2"):
        base = uneven(architecture)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = logits(base)
            assert torch.equal(logits(get_peft_model(base, config())), expected)


def test_every_norm_of_the_blocks_is_trained_and_the_final_norm_is_not() -> None:
    model = trained(uneven()).train()
    copies = ".modules_to_save.default.weight"
    assert trained_norms(model) == [
        f"base_model.model.model.layers.{layer}.{norm}{copies}" for layer in (0, 1) for norm in NORMS
    ]
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


def test_only_the_norms_of_adapted_blocks_are_trained_also_where_numbers_end_alike() -> None:
    model = get_peft_model(uneven(num_hidden_layers=12), config(layers_to_transform=[1]))
    assert {name.split(".layers.")[1].split(".")[0] for name in trained_norms(model)} == {"1"}
    assert len(trained_norms(model)) == 2


def test_a_final_norm_of_the_same_name_is_left_alone() -> None:
    model = get_peft_model(uneven("opt"), config())
    assert not any("decoder.final_layer_norm" in name for name in trained_norms(model))
    assert sum("final_layer_norm" in name for name in trained_norms(model)) == 4  # two blocks, weight and bias


def test_blocks_without_a_norm_to_train_are_an_error_before_anything_is_wrapped() -> None:
    base = tiny()
    for block in base.model.layers:
        block.input_layernorm = block.post_attention_layernorm = nn.LayerNorm(32, elementwise_affine=False)
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(HycamError, match="train_norms=True has nothing to train"):
        get_peft_model(base, config())
    assert [name for name, _ in base.named_modules()] == names


def test_a_trained_norm_computes_what_the_backbones_norm_would_with_its_weights() -> None:
    for architecture, dtype in (("llama", torch.float32), ("gpt2", torch.bfloat16), ("gemma2", torch.float64)):
        base = uneven(architecture, dtype)
        by_hand = copy.deepcopy(base)
        model = trained(base, specialized="none")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "hycam_" in name:
                    parameter.zero_()
                elif ".modules_to_save.default" in name:
                    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
                    by_hand.get_parameter(name).copy_(parameter)
        assert torch.equal(logits(model), logits(by_hand))


def test_converting_the_whole_model_takes_the_norms_along() -> None:
    model = trained(uneven())
    wide = logits(copy.deepcopy(model).double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, logits(model).double(), rtol=0, atol=1e-4)
    assert logits(model.bfloat16()).dtype == torch.bfloat16


def test_each_adapter_has_norms_of_its_own_and_some_have_none() -> None:
    first = logits(trained(uneven(), 3))
    second = logits(trained(uneven(), 4))
    without = logits(trained(uneven(), 5, train_norms=False))
    model = trained(uneven(), 3)
    trained(model, 4, "second")
    trained(model, 5, "without", train_norms=False)
    for name, expected in (("second", second), ("without", without), ("default", first), ("second", second)):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected)
        assert {part.rpartition("modules_to_save.")[2] for part in trained_norms(model)} == (
            set() if name == "without" else {f"{name}.weight"}
        )
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_where_the_one_that_takes_over_after_a_deletion_has_norms_they_are_active() -> None:
    expected = logits(trained(uneven(), 4))
    model = trained(uneven(), 3, train_norms=False)
    trained(model, 4, "second")
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert torch.equal(logits(model), expected)


def test_a_users_own_modules_to_save_are_kept_beside_the_norms(tmp_path: Path) -> None:
    model = trained(uneven(), modules_to_save=["lm_head"])
    assert model.peft_config["default"].modules_to_save == ["lm_head", *NORMS]
    assert any("lm_head" in key for key in get_peft_model_state_dict(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(uneven(), tmp_path)), logits(model))
    expected = logits(uneven())
    assert torch.equal(logits(model.unload()), expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_the_norms_are_saved_under_the_backbones_own_names(architecture: str, tmp_path: Path) -> None:
    base = uneven(architecture)
    own = set(base.state_dict())
    model = trained(base)
    model.save_pretrained(tmp_path)
    keys = [key.removeprefix("base_model.model.") for key in load_file(tmp_path / "adapter_model.safetensors")]
    norms = [key for key in keys if "hycam_" not in key]
    assert set(norms) <= own
    assert len(norms) == len(trained_norms(model))
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(uneven(architecture), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("autocast", [True, False], ids=["loaded in float32", "loaded in bfloat16"])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_norms_trained_in_float32_load_exactly_on_a_bfloat16_backbone(
    autocast: bool, low_cpu_mem_usage: bool, tmp_path: Path
) -> None:
    model = trained(uneven(dtype=torch.bfloat16))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        uneven(dtype=torch.bfloat16), tmp_path, autocast_adapter_dtype=autocast, low_cpu_mem_usage=low_cpu_mem_usage
    )
    saved, got = (
        {key: value for key, value in get_peft_model_state_dict(kind).items() if "layernorm" in key}
        for kind in (model, loaded)
    )
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert saved.keys() == got.keys()
    assert len(saved) == 4
    for key, value in saved.items():
        assert torch.equal(got[key], value.to(got[key].dtype))
    if autocast:
        assert {value.dtype for value in got.values()} == {torch.float32}
        if not low_cpu_mem_usage:  # there PEFT takes the weights of every layer through the backbone's type
            assert torch.equal(logits(loaded), logits(model))


def test_a_step_too_small_for_bfloat16_is_kept() -> None:
    model = get_peft_model(tiny(dtype=torch.bfloat16), config())
    norms = [model.get_parameter(name) for name in trained_norms(model)]
    optimizer = torch.optim.SGD(norms, lr=1.0)
    for norm in norms:
        norm.grad = torch.full_like(norm, 2e-5)
    optimizer.step()
    for norm in norms:
        torch.testing.assert_close(norm.detach(), torch.full_like(norm, 1 - 2e-5), rtol=0, atol=1e-7)
