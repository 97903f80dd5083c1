"""The configuration refuses what cannot work, and says which value it was."""

from __future__ import annotations

import pytest

from hycam import HyCAMConfig


def test_the_defaults_are_the_papers_settings() -> None:
    config = HyCAMConfig()
    assert (config.num_specialized, config.r, config.temperature, config.balance_weight) == (5, 64, 0.5, 0.1)
    assert (config.shared, config.specialized, config.routing, config.noise) == ("full", "low_rank", "soft", "train")
    assert (config.modulation_target, config.train_router, config.train_norms) == ("attention_output", True, False)
    assert config.alpha is None
    assert not config.use_bias
    assert config.peft_type == "HYCAM"


@pytest.mark.parametrize(
    ("field", "value"),
    [("r", 0), ("num_specialized", 0), ("temperature", 0.0), ("temperature", float("nan")), ("balance_weight", -0.1),
     ("shared", "half"), ("specialized", "lowrank"), ("routing", "top"), ("noise", "off"), ("balance_scope", "global"),
     ("modulation_target", "residual")],
)  # fmt: skip
def test_an_impossible_value_is_named_in_the_error(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*{value}"):
        HyCAMConfig(**{field: value})


def test_nothing_to_modulate_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be modulated"):
        HyCAMConfig(shared="none", specialized="none")


def test_a_layers_pattern_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layers_to_transform"):
        HyCAMConfig(layers_pattern="layers")
