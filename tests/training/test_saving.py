"""What could not be saved after training is mended or refused before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from byte_tokenizer import byte_tokenizer
from hycam.adapt import empty_backbone
from hycam.console import Silence
from hycam.errors import HycamError
from hycam.evaluation.generation import generate
from hycam.training.preflight.check import preflight
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import Run
from hycam.training.saving import check_saves, check_shared, mended
from hycam.training.train import train


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, []),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 7}, ["temperature", "top_k", "top_p"]),
        ({"do_sample": False, "min_p": 0.1}, ["min_p"]),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, []),
        ({"early_stopping": True, "length_penalty": 2.0}, ["early_stopping", "length_penalty"]),
        ({"num_beams": 3, "early_stopping": True, "length_penalty": 2.0}, []),
        ({"pad_token_id": -1}, ["pad_token_id"]),
        ({"temperature": 0.6, "repetition_penalty": 1.2, "max_new_tokens": 9}, ["temperature"]),
    ],
)
def test_settings_are_left_out_where_they_do_nothing_and_all_others_kept(
    settings: dict[str, Any], left_out: list[str], tmp_path: Path
) -> None:
    given = GenerationConfig(eos_token_id=[1, 5], bos_token_id=0, **settings)
    found, names = mended(given)
    assert sorted(names) == left_out
    kept = {name: value for name, value in given.to_diff_dict().items() if name not in left_out}
    assert found.to_diff_dict() == kept
    found.validate(strict=True)
    found.pad_token_id = 1  # as the trainer changes them
    found.save_pretrained(tmp_path)


@pytest.fixture
def odd(recipe: Callable[..., Recipe], backbone: str, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of full fine-tuning whose backbone's generation_config.json has further settings."""

    def odd(method: str = "full", **settings: Any) -> Recipe:
        folder = Path(shutil.copytree(backbone, tmp_path / "odd"))
        path = folder / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return replace(recipe(method, max_steps=1, save_every=1), backbone=str(folder))

    return odd


def test_a_temperature_without_sampling_is_left_out_of_the_trained_model(odd, caplog) -> None:
    chosen = odd(temperature=0.6, eos_token_id=5)  # another end token than the tokenizer's: the trainer changes it
    (found,) = [one for one in preflight(chosen, Silence()) if one.about == "backbone" and one.severity != "ok"]
    assert found.severity == "warning" and "generation_config.json" in found.text and "temperature" in found.text
    train(chosen, Silence())
    assert caplog.text.count("sets temperature") == 1
    run = Run(Path(chosen.output))
    for folder in (run.model, run.checkpoints / "checkpoint-1"):
        assert "temperature" not in json.loads((folder / "generation_config.json").read_text())
    model, tokenizer = run.load()
    greedy = generate(model, tokenizer, [[5, 6, 7]], 8, 1)
    own = model.generate(input_ids=model.dummy_inputs["input_ids"][:1] * 0 + 7, max_new_tokens=3)
    assert own.shape[1] > 1 and greedy == generate(model, tokenizer, [[5, 6, 7]], 8, 1)


def test_an_adapter_leaves_the_settings_of_its_backbone_alone(odd) -> None:
    chosen = odd("hycam", temperature=0.6, eos_token_id=5)
    assert not [one for one in preflight(chosen, Silence()) if "temperature" in one.text]
    train(chosen, Silence())


@pytest.mark.parametrize("method", ["full", "hycam"])
@pytest.mark.parametrize(
    "settings",
    [{"early_stopping": "now"}, {"num_return_sequences": 3}, {"max_new_tokens": 0}, {"cache_implementation": "other"}],
)
def test_settings_with_which_no_model_is_loaded_are_an_error_before_that(odd, method: str, settings) -> None:
    chosen = odd(method, **settings)
    (found,) = [one for one in preflight(chosen, Silence()).errors if one.about == "backbone"]
    assert "generation_config.json" in found.text and next(iter(settings)) in found.text
    with pytest.raises(HycamError, match=r"generation_config\.json of .* does not work"):
        train(chosen, Silence())


def test_a_configuration_and_a_tokenizer_that_cannot_be_saved_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = (
        byte_tokenizer(),
        empty_backbone(LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2)),
    )
    check_saves("x", tokenizer)
    check_saves("x", model)
    model.config.further = object()
    with pytest.raises(HycamError, match="configuration of x can be loaded and not be saved"):
        check_saves("x", model)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(HycamError, match=r"tokenizer of x can be loaded and not be saved.*division by zero"):
        check_saves("x", tokenizer)


def test_a_tokenizer_that_cannot_be_saved_ends_neither_a_check_nor_a_training(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", lambda *_, **__: 1 / 0)
    assert any("tokenizer" in one.text and "not be saved" in one.text for one in preflight(recipe(), Silence()).errors)
    with pytest.raises(HycamError, match=r"tokenizer of .* not be saved"):
        train(recipe(), Silence())


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_one_tensor_have_to_be_declared_as_tied(tied: bool) -> None:
    config = LlamaConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=32, tie_word_embeddings=tied
    )
    for model in (empty_backbone(config), LlamaForCausalLM(config)):
        check_shared("x", model)
        model.model.layers[0].mlp.up_proj.weight = nn.Parameter(model.model.layers[0].mlp.gate_proj.weight * 1)
        check_shared("x", model)
        model.model.layers[0].mlp.up_proj.weight = model.model.layers[0].mlp.gate_proj.weight
        with pytest.raises(HycamError, match=r"gate_proj\.weight and .*up_proj\.weight of x are one tensor"):
            check_shared("x", model)


@pytest.mark.parametrize("method", ["lora", "hycam"])
@pytest.mark.parametrize("kept", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]])
def test_an_adapter_with_embeddings_of_its_own_is_loaded_again(
    recipe: Callable[..., Recipe], method: str, kept: list[str]
) -> None:
    chosen = replace(recipe(max_steps=1), method=MethodRecipe(method, {"r": 4, "modules_to_save": kept}))
    train(chosen, Silence())
    model, _ = Run(Path(chosen.output)).load()
    assert {name.split(".modules_to_save")[0].rpartition(".")[2] for name, _ in model.named_parameters()
            if ".modules_to_save." in name} == set(kept)  # fmt: skip
