"""Liger's kernels and the compiler under an adapter: the loss and the gradients of the plain run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from architectures import VOCABULARY, tiny
from hycam.adapt import adapt
from hycam.console import Reporter
from hycam.errors import HycamError
from hycam.labelled import head_at, labelled_positions
from hycam.optim import OptimizerSettings
from hycam.training import savings
from hycam.training.recipe import Recipe, TrainingRecipe
from hycam.training.savings import compile_blocks, refusals, use_liger
from hycam.training.train import train as train_with


def train(recipe: Recipe) -> float:
    """The validation loss that a recipe comes to."""
    return train_with(recipe, Reporter())["validation"]["eval_loss"]


def step_from(model: nn.Module, length: int, seed: int = 9) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients for two rows, the second of which is half as long."""
    torch.manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (2, length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    model.zero_grad()
    torch.manual_seed(seed)  # the noise's
    loss = model(input_ids=ids, attention_mask=mask, labels=ids.where(mask == 1, -100), use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(layers: int = 2, prepare: Callable[[nn.Module], None] = lambda _: None, **config) -> nn.Module:
    """A tiny adapted backbone whose weights are not at their start; ``prepare`` comes before the adapter."""
    torch.manual_seed(0)
    base = tiny("llama", num_hidden_layers=layers)
    prepare(base)
    model = adapt(base, "hycam", {"r": 4, "noise": "always", "balance_weight": 5.0, **config}).train()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "norm" not in name:
            nn.init.normal_(parameter, std=0.1)
    return model


# Liger


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Liger's kernels run on CPU tensors, by Triton's interpreter.

    The interpreter hands a kernel its floats as Python's, which cannot be cast, and knows no ``rsqrt`` of CUDA's.
    """
    pytest.importorskip("liger_kernel")
    import liger_kernel.ops.rms_norm
    import triton
    from triton.runtime import interpreter

    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton compiles here (TRITON_INTERPRET)")

    class Number(float):
        def to(self, _) -> Number:
            return self

    convert = interpreter._implicit_cvt
    monkeypatch.setattr(interpreter, "_implicit_cvt", lambda x: Number(x) if type(x) is float else convert(x))
    monkeypatch.setattr(liger_kernel.ops.rms_norm, "rsqrt", lambda x: triton.language.math.rsqrt(x))


def test_a_backbone_with_ligers_kernels_gives_an_adapter_the_same_loss_and_gradients(interpreted) -> None:
    config = {"modulation_target": "residual_stream", "train_norms": True}  # which look at the norms that Liger changes
    loss, gradients = step_from(trained(**config), 6)
    names = dict(vars(modeling_llama))
    with ExitStack() as undo:
        model = trained(prepare=lambda base: use_liger(base, undo), **config)
        assert modeling_llama.apply_rotary_pos_emb.__module__.startswith("liger_kernel")
        norm = model.get_base_model().model.layers[0].input_layernorm.original_module
        assert norm.forward.__func__.__module__.startswith("liger_kernel")
        found, of_liger = step_from(model, 6)
        ids = torch.arange(3, 9)[None]
        row, position, targets = labelled_positions(ids)
        with head_at(model.get_base_model(), row[-2:], position[-2:]):
            out = model(input_ids=ids, labels=ids, shift_labels=targets[-2:][None], use_cache=False)
        assert out.logits.shape == (1, 2, VOCABULARY)
        assert out.loss.isfinite()
    assert vars(modeling_llama) == names
    torch.testing.assert_close(found, loss)
    assert of_liger.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_liger[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


# The compiler


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles without making code: forward and backward are traced as by default, which needs no C++ compiler."""
    compile_block = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kwargs: compile_block(self, backend="aot_eager", **kwargs))
    monkeypatch.setattr(savings, "_check_compile", lambda *_: None)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_few_graphs_serve_all_blocks_and_lengths_with_the_loss_and_gradients_of_the_plain_run(
    traced, checkpointing: bool
) -> None:
    results = []
    for compiled in (False, True):
        model = trained(modulation_target="residual_stream")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with ExitStack() as undo:
            if compiled:
                compile_blocks(model, undo)
            results.append([step_from(model, length) for length in (12, 19)])
    for (loss, gradients), (found, compiled_gradients) in zip(*results, strict=True):
        torch.testing.assert_close(found, loss)
        assert compiled_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert gradient.any(), name
            torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    # The input of the first block needs no gradient; checkpointing has it need one.
    assert counters["stats"]["unique_graphs"] == (1 if checkpointing else 2)


def test_a_compiled_run_comes_to_the_same_adapter_and_validates_without_further_graphs(
    recipe, tmp_path: Path, traced
) -> None:
    settings = {"max_steps": 2, "evaluate_every": 1, "batch_size": 1, "gradient_checkpointing": True}
    plain = train(recipe(**settings))
    compiled = replace(recipe(**settings, torch_compile=True), output=str(tmp_path / "compiled"))
    assert train(compiled) == pytest.approx(plain, rel=1e-4)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_a_model_without_blocks_is_not_compiled() -> None:
    with ExitStack() as undo, pytest.raises(HycamError, match="Linear has no blocks"):
        compile_blocks(nn.Linear(2, 2), undo)


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_code_has_the_loss_and_gradients_of_the_plain_run(checkpointing: bool) -> None:
    recipe = Recipe(training=TrainingRecipe(torch_compile=True))
    assert refusals(recipe, torch.device("cpu"), OptimizerSettings()) == []
    results = []
    torch._dynamo.reset()
    for compiled in (False, True):
        model = trained()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # The compiler's own random numbers are others than PyTorch's.
        with ExitStack() as undo, torch._inductor.config.patch(fallback_random=True):
            if compiled:
                compile_blocks(model, undo)
            results.append([step_from(model, length) for length in (12, 19)])
    for (loss, gradients), (found, compiled_gradients) in zip(*results, strict=True):
        torch.testing.assert_close(found, loss)
        for name, gradient in gradients.items():
            torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
