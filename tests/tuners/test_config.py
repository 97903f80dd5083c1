"""The configurations have the paper's values, survive saving, and refuse what cannot work by naming it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_config

from hycam import HyCAMConfig, MoeLoraConfig, MultiLoraConfig

KINDS = {"HYCAM": HyCAMConfig, "MULTILORA": MultiLoraConfig, "MOELORA": MoeLoraConfig}
every = pytest.mark.parametrize("kind", KINDS)
SHARED = {"r": 64, "alpha": None, "target_modules": None, "init_weights": True}
DEFAULTS = {
    "HYCAM": {
        "num_specialized": 5, "temperature": 0.5, "balance_weight": 0.1, "shared": "full", "specialized": "low_rank",
        "routing": "soft", "noise": "train", "modulation_target": "attention_output", "train_router": True,
        "train_norms": False, "use_bias": False, "router_bias": False,
    },
    "MULTILORA": {"num_branches": 5, "dropout": 0.0},
    "MOELORA": {"num_experts": 5, "top_k": 2, "dropout": 0.0, "rescale_gate": False},
}  # fmt: skip


@every
def test_the_defaults_are_the_papers_settings_and_peft_finds_the_class_by_its_name(kind: str) -> None:
    config = get_peft_config({"peft_type": kind})
    assert type(config) is KINDS[kind] and config.peft_type == kind
    wanted = {**SHARED, **DEFAULTS[kind]}
    assert {name: getattr(config, name) for name in wanted} == wanted


@every
def test_a_configuration_survives_the_way_to_disk_and_back(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind](r=7, alpha=16, target_modules=["v_proj", "q_proj"], exclude_modules=["0.q_proj"])
    made.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == made
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == kind


@every
def test_the_order_of_names_does_not_matter_and_the_factor_is_alpha_over_r(kind: str) -> None:
    one, other = (KINDS[kind](target_modules=names, exclude_modules=names) for names in (["q", "k"], ["k", "q"]))
    assert one == other
    assert (KINDS[kind](r=4).scale, KINDS[kind](r=4, alpha=6).scale) == (1, 1.5)


@every
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be at least 1, not 0"),
        ({"r": 2.5}, "r must be a whole number, not 2.5"),
        ({"alpha": -1.0}, "alpha must be a number above 0.* not -1.0"),
        ({"target_modules": r".*q_proj", "layers_to_transform": [1]}, "no effect beside a pattern.*q_proj"),
        ({"layers_pattern": "layers"}, "layers_pattern has no effect without layers_to_transform"),
    ],
)
def test_what_no_method_can_do_is_refused(kind: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KINDS[kind](**settings)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("HYCAM", "num_specialized", 0), ("HYCAM", "temperature", 0.0), ("HYCAM", "temperature", float("nan")),
        ("HYCAM", "balance_weight", -0.1), ("HYCAM", "shared", "half"), ("HYCAM", "specialized", "lowrank"),
        ("HYCAM", "routing", "top"), ("HYCAM", "noise", "off"), ("HYCAM", "balance_scope", "global"),
        ("HYCAM", "modulation_target", "residual"),
        ("MULTILORA", "num_branches", 0), ("MULTILORA", "dropout", 1.0), ("MOELORA", "dropout", float("nan")),
        ("MOELORA", "num_experts", -1), ("MOELORA", "top_k", 0), ("MOELORA", "dropout", -0.1),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named_in_the_error(kind: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must.*{value}"):
        KINDS[kind](**{field: value})


def test_settings_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be modulated"):
        HyCAMConfig(shared="none", specialized="none")
    with pytest.raises(ValueError, match=r"top_k is 4, but there are only 3 experts \(num_experts\)"):
        MoeLoraConfig(num_experts=3, top_k=4)
    assert MoeLoraConfig(num_experts=3, top_k=3).top_k == 3
