"""Putting a method on a backbone."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from architectures import tiny, tokens
from hycam.adapt import adapt, matched_settings, trainable_parameters
from hycam.errors import HycamError
from hycam.methods import METHODS, method


def test_full_fine_tuning_is_the_backbone_itself_all_of_it_trainable() -> None:
    model = tiny().requires_grad_(False)
    adapted = adapt(model, "full")
    assert adapted is model
    assert trainable_parameters(adapted) == model.num_parameters()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full"])
def test_every_other_method_wraps_the_backbone_and_freezes_it(name: str) -> None:
    adapted = adapt(tiny(), name)
    assert isinstance(adapted, PeftModel)
    assert trainable_parameters(adapted) > 0
    assert not any(p.requires_grad for n, p in adapted.named_parameters() if n.endswith("base_layer.weight"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lora", {}), ("multilora", {}), ("moe-lora", {}), ("hycam", {}), ("peft", {"peft_type": "HIRA"}),
     ("peft", {"peft_type": "OFT"})],
)  # fmt: skip
def test_a_target_that_matches_nothing_lists_what_there_is_before_anything_is_touched(name: str, settings) -> None:
    model = tiny()
    before = {key: type(module) for key, module in model.named_modules()}
    expected = "self_attn" if name == "hycam" else r"q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    with pytest.raises(HycamError, match=expected):
        adapt(model, name, {**settings, "target_modules": ["query"]})
    assert {key: type(module) for key, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_factor_of_an_equal_budget_lora_stays_one_unless_a_recipe_says_otherwise() -> None:
    rank = matched_settings(method("lora-matched"), {}, tiny().config)["r"]
    for settings, alpha in (({}, rank), ({"lora_alpha": 5}, 5)):
        config = adapt(tiny(), "lora-matched", settings).peft_config["default"]
        assert (config.r, config.lora_alpha) == (rank, alpha)


def test_a_rank_that_the_settings_make_powerless_matches_nothing() -> None:
    with pytest.raises(HycamError, match="does not depend on r"):
        adapt(tiny(), "lora-matched", {"rank_pattern": {".*": 4}})


def test_a_pattern_that_is_none_is_refused() -> None:
    for name in ("lora", "multilora", "hycam"):
        with pytest.raises(HycamError, match=f"{name} cannot adapt"):
            adapt(tiny(), name, {"target_modules": "*_proj"})


def test_an_equal_budget_follows_the_settings_that_a_recipe_gives() -> None:
    config = tiny(hidden_size=64, num_hidden_layers=3).config
    attention = {"target_modules": ["q_proj", "o_proj"]}
    everywhere, there = (matched_settings(method("lora-matched"), s, config)["r"] for s in ({}, attention))
    assert there > 2 * everywhere
    five, two = (matched_settings(method("multilora-matched"), {"num_branches": n}, config)["r"] for n in (5, 2))
    assert two > 2 * five
    shared = {"shared": "low_rank", "shared_r": 2}
    full, low_rank = (matched_settings(method("hycam-ffn-matched"), s, config)["ffn_r"] for s in ({}, shared))
    assert low_rank > full


@pytest.mark.parametrize(
    "settings",
    [{"peft_type": "LORA", "use_dora": True, "target_modules": "all-linear"}, {"peft_type": "IA3"},
     {"peft_type": "VERA", "r": 8}, {"peft_type": "HIRA", "r": 8}],
    ids=["DoRA", "IA3", "VeRA", "HiRA"],
)  # fmt: skip
def test_methods_of_peft_run_by_their_configuration(settings: dict) -> None:
    base = tiny()
    expected = base(input_ids=tokens()).logits
    adapted = adapt(base, "peft", settings)
    torch.testing.assert_close(adapted.eval()(input_ids=tokens()).logits, expected, rtol=0, atol=1e-4)
    adapted.train()(input_ids=tokens(), labels=tokens()).loss.backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert trained
    assert any(parameter.grad.abs().sum() > 0 for parameter in trained)
