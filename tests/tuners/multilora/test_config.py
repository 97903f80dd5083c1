"""The settings that are MultiLoRA's own."""

from __future__ import annotations

import pytest
from peft import get_peft_config

from hycam import MultiLoraConfig


def test_the_defaults_are_those_of_the_papers_comparison() -> None:
    config = MultiLoraConfig()
    assert (config.num_branches, config.r, config.alpha, config.dropout) == (5, 64, None, 0.0)
    assert config.target_modules is None
    assert config.init_weights
    assert config.peft_type == "MULTILORA"


@pytest.mark.parametrize("value", [0, -2])
def test_there_has_to_be_a_branch(value: int) -> None:
    with pytest.raises(ValueError, match=f"num_branches must be at least 1, not {value}"):
        MultiLoraConfig(num_branches=value)


def test_peft_finds_it_by_its_name() -> None:
    config = get_peft_config({"peft_type": "MULTILORA", "num_branches": 2})
    assert isinstance(config, MultiLoraConfig)
    assert config.num_branches == 2
