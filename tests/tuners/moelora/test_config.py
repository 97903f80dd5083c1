"""The settings that are MoE-LoRA's own."""

from __future__ import annotations

import pytest
from peft import get_peft_config

from hycam import MoeLoraConfig


def test_the_defaults_are_those_of_the_papers_comparison() -> None:
    config = MoeLoraConfig()
    assert (config.num_experts, config.top_k, config.r, config.alpha, config.dropout) == (5, 2, 64, None, 0.0)
    assert config.target_modules is None
    assert config.init_weights
    assert not config.rescale_gate
    assert config.peft_type == "MOELORA"


@pytest.mark.parametrize(("field", "value"), [("num_experts", 0), ("num_experts", -1), ("top_k", 0), ("top_k", -3)])
def test_there_have_to_be_experts_and_a_token_has_to_keep_one(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, not {value}"):
        MoeLoraConfig(**{field: value})


def test_a_token_cannot_keep_more_experts_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"top_k is 4, but there are only 3 experts \(num_experts\)"):
        MoeLoraConfig(num_experts=3, top_k=4)
    assert MoeLoraConfig(num_experts=3, top_k=3).top_k == 3


def test_peft_finds_it_by_its_name() -> None:
    config = get_peft_config({"peft_type": "MOELORA", "num_experts": 7, "rescale_gate": True})
    assert isinstance(config, MoeLoraConfig)
    assert (config.num_experts, config.rescale_gate) == (7, True)
