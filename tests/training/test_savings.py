"""What a recipe asks for that does not work here, backends, and 8-bit optimizer states."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from architectures import tiny
from hycam import backbones
from hycam.console import Reporter
from hycam.errors import HycamError
from hycam.ops import BACKENDS, current_backend
from hycam.optim import OptimizerSettings
from hycam.training import savings
from hycam.training.loop import Loop
from hycam.training.recipe import MethodRecipe, Recipe, TrainingRecipe
from hycam.training.run import Run
from hycam.training.savings import refusals
from hycam.training.train import train as train_with

CUDA = torch.device("cuda")  # of which only the type is looked at
ADAMW = OptimizerSettings()


def train(recipe: Recipe) -> float:
    """The validation loss that a recipe comes to."""
    return train_with(recipe, Reporter())["validation"]["eval_loss"]


def weights(recipe: Recipe) -> dict[str, Tensor]:
    return load_file(Run(Path(recipe.output)).adapter / "adapter_model.safetensors")


# Refusals


@pytest.mark.parametrize(
    ("method", "training", "message"),
    [
        ("hycam", {"use_liger_kernel": True}, "use_liger_kernel needs a GPU.*on a CPU training.backend=recompute"),
        ("riemoe-lora", {"optimizer_states": "8bit"}, "8bit is for AdamW.*riemannian"),
        ("hycam", {"optimizer_states": "8bit"}, r"needs the package bitsandbytes.*hycam\[quantization\]"),
        ("hycam", {"torch_compile": True}, r"needs a C\+\+ compiler"),
        ("hycam", {"torch_compile": True, "backend": "recompute"}, "recompute does not go with training.torch_compile"),
        ("hycam", {"backend": "triton"}, 'backend "triton" does not work here.*Use "auto"'),
        ("hycam", {"extra": {"use_liger_kernel": True}}, "cannot set use_liger_kernel: the recipe has a field"),
        ("hycam", {"extra": {"torch_compile_mode": "max-autotune"}}, "cannot set torch_compile_mode"),
    ],
)
def test_what_does_not_work_here_is_said_before_anything_is_loaded(
    recipe, monkeypatch: pytest.MonkeyPatch, method: str, training: dict, message: str
) -> None:
    for name in ("load", "load_tokenizer"):
        monkeypatch.setattr(backbones, name, lambda *_: pytest.fail("something is loaded"))
    monkeypatch.setattr(savings, "is_bitsandbytes_available", lambda _: False)
    monkeypatch.setattr("hycam.ops.dispatch.unavailable", {"triton": "there is no GPU."}.get)
    chosen = recipe(method, **training)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(HycamError, match=message):
        train(chosen)
    assert not Path(chosen.output).exists()
    assert current_backend() == "auto"


def test_liger_is_refused_without_its_package_and_for_a_backbone_that_it_does_not_know(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    chosen = recipe(use_liger_kernel=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", None)
        (refusal,) = refusals(chosen, CUDA, ADAMW)
    assert "needs the package liger-kernel" in str(refusal) and "hycam[liger]" in str(refusal)
    pytest.importorskip("liger_kernel")
    assert refusals(chosen, CUDA, ADAMW) == []
    (refusal,) = refusals(replace(chosen, backbone=str(tmp_path / "gpt2")), CUDA, ADAMW)
    assert "Liger has no kernels for" in str(refusal) and "type gpt2" in str(refusal)


# Backends


def test_a_recipe_can_ask_for_every_backend_and_by_the_former_name_for_recomputing() -> None:
    assert [TrainingRecipe(backend=name).backend for name in ("auto", *BACKENDS)] == ["auto", *BACKENDS]
    assert TrainingRecipe(backend="lean") == TrainingRecipe(backend="recompute")
    with pytest.raises(HycamError, match=r'no training.backend called "eagre"\. Did you mean "eager"'):
        TrainingRecipe(backend="eagre")


@pytest.mark.parametrize("name", ["recompute", "reference"])
def test_the_backend_of_a_recipe_computes_its_training_and_gives_the_same_adapter(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls, there = [], BACKENDS[name]
    noted = replace(there, modulate=lambda *args: calls.append(1) or there.modulate(*args))
    monkeypatch.setitem(BACKENDS, name, noted)
    plain = train(recipe(max_steps=3))
    assert not calls
    assert train(replace(recipe(max_steps=3, backend=name), output=str(tmp_path / name))) == pytest.approx(plain, 1e-4)
    assert len(calls) >= 2 * 3 * 2  # layers, steps and micro-batches
    assert current_backend() == "auto"


# 8-bit optimizer states


@pytest.fixture
def states_of(monkeypatch: pytest.MonkeyPatch):
    """Trains a recipe and gives its loss, and AdamW's state of each parameter that has one."""
    pytest.importorskip("bitsandbytes")
    seen = []
    monkeypatch.setattr(Loop, "step_ended", lambda self: seen.append(self.optimizer.optimizer))

    def run(recipe: Recipe) -> tuple[float, dict[nn.Parameter, dict[str, Tensor]]]:
        loss = train(recipe)
        return loss, seen[-1].state

    return run


def of_rank_64(recipe: Recipe) -> Recipe:
    """With specialised modules of 10,240 values; bitsandbytes leaves a weight of under 4,096 in 32 bits."""
    return replace(recipe, method=MethodRecipe("hycam", {"r": 64}))


def test_8_bit_states_take_a_quarter_of_the_memory_and_lead_to_nearly_the_same_loss(
    recipe, tmp_path: Path, states_of
) -> None:
    loss = {}
    for bits in ("32bit", "8bit"):
        chosen = of_rank_64(recipe(max_steps=20, optimizer_states=bits))
        loss[bits], states = states_of(replace(chosen, output=str(tmp_path / bits)))
    start, _ = states_of(replace(recipe("lora", max_steps=1, learning_rate=1e-9), output=str(tmp_path / "start")))
    assert loss["32bit"] < start - 0.2
    assert loss["8bit"] == pytest.approx(loss["32bit"], abs=0.1 * (start - loss["32bit"]))
    assert {p.shape[-2:] for p, state in states.items() if state["state1"].dtype == torch.uint8} == {
        (64, 32),
        (32, 64),
        (64, 64),
    }
    for parameter, state in states.items():
        tensors = [value for key, value in state.items() if torch.is_tensor(value) and not key.startswith("qmap")]
        taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        # A scale in float32 for each block of 256 values.
        assert taken == parameter.numel() * (2 + 8 / 256 if parameter.numel() >= 4096 else 8)


def test_a_run_with_8_bit_states_continues_to_the_same_weights(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = {"optimizer_states": "8bit", "save_every": 2, "max_steps": 6}
    whole = replace(of_rank_64(recipe(**settings)), output=str(tmp_path / "whole"))
    train(whole)
    chosen = of_rank_64(recipe(**settings))

    def stop(self):
        if self.progress.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step_ended", stop)
        train(chosen)
    train(chosen)
    again, once = weights(chosen), weights(whole)
    assert all(torch.equal(again[name], once[name]) for name in once)


def test_the_states_of_a_trained_embedding_stay_in_32_bits(recipe, states_of) -> None:
    _, states = states_of(recipe("full", max_steps=1, learning_rate=1e-3, optimizer_states="8bit"))
    config = backbones.config(recipe().backbone)
    tables = [state for p, state in states.items() if p.shape == (config.vocab_size, config.hidden_size)]
    assert sorted(str(state["state1"].dtype) for state in tables) == ["torch.float32", "torch.uint8"]  # in, and out
