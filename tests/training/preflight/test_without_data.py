"""What loading and the optimizer would refuse, found on the meta device."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedConfig, T5Config

from architectures import ARCHITECTURES, tiny
from hycam import backbones
from hycam.adapt import adapt, trainable_parameters
from hycam.methods import METHODS
from hycam.training import savings
from hycam.training.preflight.without_data import check_adapter
from hycam.training.recipe import MethodRecipe, OptimizerRecipe, Recipe, TrainingRecipe


def config(architecture: str = "llama") -> PreTrainedConfig:
    return AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])


def chosen(name: str = "hycam", settings: dict[str, Any] | None = None, **optimizer: Any) -> Recipe:
    return Recipe(method=MethodRecipe(name, settings or {}, OptimizerRecipe(**optimizer)))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_works_has_the_parameters_that_it_trains(method: str, monkeypatch) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("weights are loaded"))
    found, trained = check_adapter(chosen(method), config())
    assert found == []
    assert trained == trainable_parameters(adapt(tiny("llama"), method))


@pytest.mark.parametrize(
    ("architecture", "recipe", "message"),
    [
        ("llama", chosen(settings={"target_modules": ["attention"]}), "matches nothing.*self_attn"),
        ("llama", chosen("lora", {"target_modules": ["query"]}), "matches nothing.*q_proj"),
        ("gpt2", chosen("hycam-released"), "residual_stream.*not for gpt2"),
        ("llama", chosen(settings={"layers_to_transform": [7]}), "layers"),
        ("llama", chosen(settings={"specialized": "none"}, multipliers={"hycam_A": 2.0}), '"hycam_A"'),
        ("gpt2", chosen("peft", {"peft_type": "LORA", "target_modules": ["wrong"]}), "c_attn"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_backbone_is_said(architecture: str, recipe: Recipe, message: str) -> None:
    found, _ = check_adapter(recipe, config(architecture))
    (error,) = found.errors
    assert re.search(message, error.text)


def test_a_configuration_of_no_causal_language_model_is_said() -> None:
    found, trained = check_adapter(chosen(), T5Config())
    assert trained is None
    assert "No causal language model can be made" in found.errors[0].text


def test_compiling_without_blocks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(training=TrainingRecipe(torch_compile=True))
    assert check_adapter(recipe, config())[0] == []
    monkeypatch.setattr(savings, "GradientCheckpointingLayer", type("Another", (), {}))
    (error,) = check_adapter(recipe, config())[0].errors
    assert "LlamaForCausalLM has no blocks" in error.text
