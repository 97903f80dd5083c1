"""Adapters trained on a quantised backbone, from a recipe to an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hycam import backbones
from hycam.cli.main import main
from hycam.console import Reporter
from hycam.data.prepare import prepare
from hycam.errors import HycamError
from hycam.evaluation.perplexity import response_nll
from hycam.methods import METHODS
from hycam.training.loop import Loop
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import Run
from hycam.training.train import train

pytest.importorskip("bitsandbytes")

ADAPTERS = [name for name, entry in METHODS.items() if not entry.trains_backbone]


@pytest.fixture
def quantized(recipe) -> Callable[..., Recipe]:
    def build(method: str = "hycam", quantization: str = "4bit", **training) -> Recipe:
        return replace(recipe(method, **training), quantization=quantization)

    return build


def weights(chosen: Recipe) -> dict[str, torch.Tensor]:
    return load_file(Run(Path(chosen.output)).adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("method", "quantization"),
    [
        pytest.param(method, bits, marks=() if (method, bits) == ("hycam", "4bit") else pytest.mark.soak)
        for method in ADAPTERS
        for bits in ("4bit", "8bit")
    ],
)
def test_every_adapter_learns_on_a_quantised_backbone(quantized, method: str, quantization: str) -> None:
    chosen = quantized(method, quantization, max_steps=10, evaluate_every=5, gradient_checkpointing=True)
    summary = train(chosen, Reporter())
    base = replace(chosen, method=MethodRecipe("base"), output=f"{chosen.output}-base")
    Run(Path(base.output)).begin(base)
    model, tokenizer = Run(Path(base.output)).load()
    assert summary["total_parameters"] == model.num_parameters() == backbones.load(chosen.backbone).num_parameters()
    adapted, _ = Run(Path(chosen.output)).load()
    ids = torch.tensor([tokenizer("Turn round: ab3").input_ids])
    with torch.no_grad():
        assert not torch.equal(adapted(input_ids=ids).logits, model(input_ids=ids).logits)
        with adapted.disable_adapter():
            assert torch.equal(adapted(input_ids=ids).logits, model(input_ids=ids).logits)
    assert {weight.dtype for weight in weights(chosen).values()} == {torch.float32}
    rows = prepare(chosen.data, tokenizer).validation
    before = sum(response_nll(model, tokenizer, part, 8).per_token for part in rows.values()) / len(rows)
    assert summary["validation"]["eval_loss"] < before - 0.02


def test_an_interrupted_run_continues_to_the_same_weights_and_answers(
    quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    settings = {"save_every": 2, "evaluate_every": 2, "max_steps": 6}
    whole = replace(quantized(**settings), output=str(tmp_path / "whole"))
    train(whole, Reporter())
    stop_at = 5

    def step(self):
        if self.progress.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    chosen = quantized(**settings)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, Reporter())
    stop_at = 0
    train(chosen, Reporter())
    one, other = weights(chosen), weights(whole)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in other)
    assert main(["evaluate", chosen.output]) == 0
    assert main(["generate", chosen.output, "Turn round: ab3", "--max_new_tokens", "4"]) == 0
    assert "perplexity" in capsys.readouterr().out.lower()
    with pytest.raises(HycamError, match="another recipe: quantization is '4bit' there and '8bit' now"):
        train(replace(chosen, quantization="8bit"), Reporter())


@pytest.mark.parametrize(
    ("method", "config", "reason"),
    [
        ("full", {}, "full trains the backbone's own weights, and quantised ones .4bit. cannot be trained"),
        ("peft", {"peft_type": "VERA"}, "VERA of PEFT has no layers for quantised weights .4bit."),
    ],
)
def test_what_cannot_train_on_quantised_weights_is_refused_before_they_are_loaded(
    quantized, monkeypatch: pytest.MonkeyPatch, method: str, config: dict, reason: str
) -> None:
    chosen = replace(quantized(), method=MethodRecipe(method, config))
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("the backbone was loaded"))
    with pytest.raises(HycamError, match=reason):
        train(chosen, Reporter())
    assert not Path(chosen.output).exists()


def test_full_fine_tuning_of_a_folder_in_few_bits_is_refused_too(quantized, tmp_path: Path) -> None:
    chosen = quantized("full")
    folder = tmp_path / "few-bits"
    backbones.load(chosen.backbone, quantization="8bit").save_pretrained(folder)
    backbones.load_tokenizer(chosen.backbone).save_pretrained(folder)
    with pytest.raises(HycamError, match=r"quantised ones \(bitsandbytes\) cannot be trained"):
        train(replace(chosen, backbone=str(folder), quantization=None), Reporter())
    adapter = replace(quantized("hycam", max_steps=2), backbone=str(folder), quantization=None)
    assert train(adapter, Reporter())["steps"] == 2


def test_a_misspelt_quantization_is_told(quantized, tmp_path: Path, capsys) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("quantization: 4bits\n")
    assert main(["train", str(path)]) != 0
    assert "quantization" in capsys.readouterr().err


OTHERS = {"ADALORA": {"total_step": 6, "tinit": 1, "tfinal": 1}, "HIRA": {}, "IA3": {}, "PVERA": {}, "RANDLORA": {},
          "ROAD": {"group_size": 8}}  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_method_of_peft_that_is_let_through_trains(quantized, kind: str, quantization: str) -> None:
    chosen = quantized("lora", quantization, max_steps=2)
    chosen.method = MethodRecipe("peft", {"peft_type": kind, **OTHERS[kind]})
    assert train(chosen, Reporter())["steps"] == 2
    assert all(value.isfinite().all() for value in weights(chosen).values())
    Run(Path(chosen.output)).load()
