"""``train_router=False``: the router stays as it was drawn, whatever happens to the adapter."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from architectures import tiny, tokens
from hycam import HyCAMConfig
from hycam.tuners.hycam import HyCAMLayer


def config(**settings) -> HyCAMConfig:
    return HyCAMConfig(**{"task_type": "CAUSAL_LM", "r": 4, "train_router": False, "router_bias": True, **settings})


def first_layer(model) -> HyCAMLayer:
    return next(module for module in model.modules() if isinstance(module, HyCAMLayer))


def trained_names(model) -> set[str]:
    return {name.rpartition("self_attn.")[2] for name, p in model.named_parameters() if p.requires_grad}


EVERYTHING_ELSE = {f"hycam_{name}.default.weight" for name in ("A", "N", "B", "shared")}


@pytest.mark.parametrize("initializer_range", [0.02, 0.5])
def test_it_starts_as_the_library_draws_a_linear_layer(initializer_range: float) -> None:
    base = tiny(hidden_size=256, num_hidden_layers=1, initializer_range=initializer_range)
    router = first_layer(get_peft_model(base, config(num_specialized=20))).hycam_router["default"]
    # 5,120 draws: the standard error of their standard deviation is 1 %, of their mean 1.4 % of it.
    assert router.weight.std().item() == pytest.approx(initializer_range, rel=0.05)
    assert abs(router.weight.mean().item()) < 0.07 * initializer_range
    assert not router.bias.any()


def test_a_trained_router_starts_uniform_as_ever() -> None:
    base = tiny(hidden_size=256, num_hidden_layers=1)
    router = first_layer(get_peft_model(base, config(train_router=True, num_specialized=20))).hycam_router["default"]
    assert router.weight.abs().max() <= 256**-0.5
    assert router.weight.requires_grad


def test_nothing_that_is_done_with_adapters_unfreezes_it() -> None:
    model = get_peft_model(tiny(), config())
    model.add_adapter("trained", config(train_router=True))
    model.add_adapter("other", config())

    def assert_frozen(active: str) -> None:
        for name, parameter in model.named_parameters():
            if "hycam_router" in name:
                is_trained = active == "trained" and ".trained." in name
                assert parameter.requires_grad == is_trained, (active, name)

    assert_frozen("default")
    for active in ("other", "trained", "default"):
        model.set_adapter(active)
        assert_frozen(active)
        with model.disable_adapter():
            pass
        assert_frozen(active)
        model.base_model.disable_adapter_layers()
        model.base_model.enable_adapter_layers()
        assert_frozen(active)
        model.base_model.set_requires_grad(active, True)
        assert_frozen(active)
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert_frozen(model.active_adapter)
    model.delete_adapter("trained")
    assert_frozen(model.active_adapter)
    assert trained_names(model) == {name.replace("default", "other") for name in EVERYTHING_ELSE}


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_it_is_saved_under_the_routers_key_and_loads_frozen(low_cpu_mem_usage: bool, tmp_path) -> None:
    model = get_peft_model(tiny(), config(init_weights=False, routing="hard")).eval()
    saved = get_peft_model_state_dict(model)
    prefix = "base_model.model.model.layers.1.self_attn.hycam_router"
    assert {f"{prefix}.weight", f"{prefix}.bias"} <= saved.keys()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert trained_names(loaded) == EVERYTHING_ELSE
    assert torch.equal(loaded(input_ids=tokens()).logits, model(input_ids=tokens()).logits)


def test_without_specialised_modules_it_has_no_effect() -> None:
    model = get_peft_model(tiny(), config(specialized="none"))
    assert trained_names(model) == {"hycam_shared.default.weight"}
