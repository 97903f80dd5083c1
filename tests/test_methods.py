"""The table of methods: its names, its settings, and what it refuses."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig, VeraConfig

from hycam.errors import HycamError
from hycam.methods import METHODS, method
from hycam.tuners.hycam import HyCAMConfig


def test_the_table_has_the_names_that_recipes_rely_on() -> None:
    assert list(METHODS) == [
        "full", "lora", "multilora", "moe-lora", "riemoe-lora",
        "hycam", "hycam-shared-only", "hycam-fullspec", "hycam-speconly", "hycam-inverse-peft", "hycam-released",
        "hycam-ffn",
        "lora-matched", "multilora-matched", "moe-lora-matched", "riemoe-lora-matched",
        "hycam-ffn-matched",
    ]  # fmt: skip


def test_every_entry_can_be_written_down_and_says_where_it_is_described() -> None:
    for entry in METHODS.values():
        assert json.dumps(dict(entry.settings))
        assert entry.learning_rate > 0
        assert entry.summary
        assert entry.source
        config = entry.config()
        assert (config is None) == (entry.name == "full")
        assert config is None or config.task_type == "CAUSAL_LM"


def test_the_released_form_departs_from_the_paper_in_the_ten_points_that_a_configuration_can_hold() -> None:
    released, paper = method("hycam-released").config().to_dict(), HyCAMConfig(task_type="CAUSAL_LM").to_dict()
    assert {key: value for key, value in released.items() if value != paper[key]} == {
        "modulation_target": "residual_stream",
        "routing": "hard",
        "noise": "always",
        "train_router": False,
        "router_bias": True,
        "train_norms": True,
        "use_bias": True,
        "alpha": 32,
        "balance_weight": 0.0,
    }  # the tenth is how the router is drawn, which train_router=False brings


def test_a_recipes_settings_go_over_the_methods_own() -> None:
    config = method("lora").config({"r": 8})
    assert isinstance(config, LoraConfig)
    assert (config.r, config.target_modules) == (8, "all-linear")


def test_the_factor_of_lora_stays_one_at_every_rank_unless_a_recipe_says_otherwise() -> None:
    for settings, expected in (({}, (64, 64)), ({"r": 8}, (8, 8)), ({"r": 8, "lora_alpha": 16}, (8, 16)),
                               ({"lora_alpha": 16}, (64, 16))):  # fmt: skip
        config = method("lora").config(settings)
        assert (config.r, config.lora_alpha) == expected


def test_riemoe_lora_has_both_halves_of_what_names_it_and_moe_lora_neither() -> None:
    for name, expected in (("riemoe-lora", True), ("riemoe-lora-matched", True), ("moe-lora", False)):
        assert method(name).config().rescale_gate == expected
        assert method(name).optimizer_settings().preconditioned == expected


def test_any_method_of_peft_is_named_by_its_type_in_either_case() -> None:
    for name in ("VERA", "vera"):
        config = method("peft").config({"peft_type": name, "r": 16})
        assert isinstance(config, VeraConfig)
        assert config.r == 16


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hycam", {"num_specialised": 3}, r'hycam has no setting "num_specialised".*"num_specialized"'),
        ("hycam", {"r": 0}, "r must be at least 1, not 0"),
        ("lora", {"r": 0}, "r must be at least 1, not 0"),
        ("lora", {"r": "many"}, "settings of the method lora do not work"),
        ("lora", {"inference_mode": True}, 'lora has no setting "inference_mode"'),
        ("moe-lora", {"num_experts": 2.5}, "num_experts must be a whole number, not 2.5"),
        ("multilora", {"alpha": 0}, "alpha must be a number above 0"),
        ("hycam", {"alpha": float("nan")}, "alpha must be a number above 0"),
        ("lora", {"peft_type": "VERA"}, 'lora has no setting "peft_type"'),
        ("multilora", {"r": -1}, "r must be at least 1, not -1"),
        ("moe-lora", {"top_k": 6}, "top_k is 6, but there are only 5 experts"),
        ("full", {"r": 4}, "full has no settings"),
        ("lora-matched", {"r": 4}, "finds its rank itself; with an r of your own it is lora"),
        ("hycam-ffn-matched", {"ffn_r": 4}, "finds its rank itself; with an ffn_r of your own it is hycam-ffn"),
        ("hycam", {"ffn_r": 0}, "ffn_r must be at least 1, not 0"),
        ("peft", {}, "set method.config.peft_type, one of LORA"),
        ("peft", {"peft_type": "VERRA"}, '"VERRA" is not a method of PEFT that can be trained here.*"VERA"'),
        ("peft", {"peft_type": "PREFIX_TUNING"}, "not a method of PEFT that can be trained here"),
        ("peft", {"peft_type": "VERA", "rank": 4}, 'peft has no setting "rank"'),
        ("peft", {"peft_type": "ADALORA"}, "total_step"),
    ],
)
def test_settings_that_do_not_work_are_refused_by_name(name: str, settings: dict, message: str) -> None:
    with pytest.raises(HycamError, match=message):
        method(name).config(settings)


def test_a_misspelt_method_names_the_nearest() -> None:
    with pytest.raises(HycamError, match=r'no method called "hycamm".*"hycam"'):
        method("hycamm")
    with pytest.raises(HycamError, match=r'no method called "riemoe".*"riemoe-lora"'):
        method("riemoe")


def test_only_riemoe_lora_is_preconditioned_until_a_recipe_asks_for_it() -> None:
    preconditioned = {name for name, entry in METHODS.items() if entry.optimizer_settings().preconditioned}
    assert preconditioned == {"riemoe-lora", "riemoe-lora-matched"}
    for name, settings in (("lora", {}), ("moe-lora", {}), ("peft", {"peft_type": "LORA", "use_dora": True})):
        chosen = method(name).optimizer_settings(settings, name="riemannian", damping=1e-4)
        assert (chosen.preconditioned, chosen.damping) == (True, 1e-4)
    assert not method("riemoe-lora").optimizer_settings(name="adamw").preconditioned


def test_the_scaling_vectors_of_multilora_have_their_own_rate_and_no_decay() -> None:
    own = method("multilora").optimizer_settings()
    assert dict(own.multipliers) == {"multilora_scaling": 10.0}
    assert own.no_decay == ("multilora_scaling",)
    wished = method("multilora").optimizer_settings(multipliers={"multilora_scaling": 3.0, "multilora_A": 0.5})
    assert dict(wished.multipliers) == {"multilora_scaling": 3.0, "multilora_A": 0.5}
    assert wished.no_decay == ("multilora_scaling",)


@pytest.mark.parametrize(
    ("name", "settings", "wishes", "message"),
    [
        ("hycam", {}, {"name": "riemannian"}, "hycam has no factors for the riemannian optimizer"),
        ("full", {}, {"name": "riemannian"}, "full has no factors"),
        ("multilora", {}, {"name": "riemannian"}, "multilora has no factors"),
        ("peft", {"peft_type": "IA3"}, {"name": "riemannian"}, "peft has no factors"),
        (
            "peft",
            {"peft_type": "ADALORA", "total_step": 9, "tfinal": 1, "tinit": 1},
            {"name": "riemannian"},
            "peft has no factors",
        ),
        ("lora", {}, {"damping": 1e-3}, "damping belongs to the riemannian optimizer"),
        ("riemoe-lora", {}, {"damping": -1.0}, "damping is -1.0: it must not be negative"),
        ("moe-lora", {}, {"multipliers": {"moelora_gates": 2.0}}, 'no weights called "moelora_gates".*"moelora_gate"'),
        ("moe-lora", {}, {"multipliers": {"moelora_gate": 0.0}}, "multipliers.moelora_gate is 0.0"),
        ("full", {}, {"multipliers": {"lm_head": 2.0}}, 'no weights called "lm_head"'),
    ],
)
def test_an_optimizer_that_does_not_suit_the_method_is_refused(name, settings, wishes, message) -> None:
    with pytest.raises(HycamError, match=message):
        method(name).optimizer_settings(settings, **wishes)
