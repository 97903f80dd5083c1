"""A backbone that is not there, cannot be reached or read, or does not take the adapter."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig, T5Config

from architectures import ARCHITECTURES, tiny
from hycam import backbones
from hycam.adapt import adapt, trainable_parameters
from hycam.methods import METHODS
from hycam.training import savings
from hycam.training.preflight.backbone import check_adapter, check_backbone
from hycam.training.recipe import MethodRecipe, OptimizerRecipe, Recipe, TrainingRecipe


@pytest.fixture
def copied(backbone: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(backbone, tmp_path / "copied"))


def said(name: str | Path) -> str:
    found, weights = check_backbone(str(name))
    assert weights is None
    (error,) = found.errors
    return error.text


def test_a_whole_folder_gives_the_size_of_its_weights(copied: Path) -> None:
    found, weights = check_backbone(str(copied))
    assert found == []
    assert weights is not None
    assert weights.size == (copied / "model.safetensors").stat().st_size
    assert weights.fetched_into is None


def test_weights_in_shards_are_all_looked_for(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    names = sorted(tensors)
    shards = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, copied / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    (copied / "model.safetensors").unlink()
    _, weights = check_backbone(str(copied))
    assert weights is not None
    assert weights.size == sum((copied / file).stat().st_size for file in shards)
    (copied / "two.safetensors").unlink()
    assert "has no two.safetensors: it is incomplete" in said(copied)
    (copied / "model.safetensors.index.json").write_text("{")
    assert "is damaged" in said(copied)


def test_what_is_wrong_with_a_folder_is_said(copied: Path, tmp_path: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in said(copied)
    (copied / "model.safetensors").unlink()
    assert "has no model.safetensors" in said(copied)
    (copied / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin, which is a pickle" in said(copied)
    assert "There is no folder" in said(tmp_path / "no" / "such")
    assert '"smollm2-135m"' in said("smollm2-135mm")


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_answer(self: object, name: str, timeout: float, **_: object) -> None:
        asked.append(timeout)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_answer)
    begun = time.monotonic()
    message = said("owner/no-such-model")
    assert time.monotonic() - begun < 5
    assert asked == [10]
    assert "gave no answer within 10 s (Name or service not known)" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in said("owner/no-such-model")


def test_a_model_on_the_hub_needs_safetensors_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        def __init__(self, rfilename: str, size: int) -> None:
            self.rfilename, self.size = rfilename, size

    class Info:
        siblings = [File("config.json", 10), File("model.safetensors", 5_000_000), File("pytorch_model.bin", 7)]  # noqa: RUF012

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: Info)
    found, weights = check_backbone("owner/model")
    assert not found.errors
    assert weights is not None
    assert (weights.to_fetch, weights.fetched_into) == (5_000_000, Path(constants.HF_HUB_CACHE))
    Info.siblings = Info.siblings[2:]
    assert "no weights in safetensors on the hub" in said("owner/model")


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
