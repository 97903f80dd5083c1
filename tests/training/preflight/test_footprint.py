"""The counted footprint, compared with what real tensors take, by the allocator's own events."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from benchmarks.counting import peak_bytes
from torch.nn import functional as F
from transformers import AutoConfig

from architectures import ARCHITECTURES, tiny
from hycam.adapt import adapt
from hycam.labelled import head_at
from hycam.ops import set_backend
from hycam.optim import RiemannianAdamW, factor_pairs
from hycam.training.preflight.footprint import Footprint, Shape, changed, footprint
from hycam.training.preflight.live_bytes import LiveBytes, without_memory
from hycam.training.recipe import MethodRecipe, Recipe

CPU = torch.device("cpu")
BATCH = Shape(2, 64, 40)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512}


def counted(recipe: Recipe, architecture: str = "llama", dtype: torch.dtype = torch.float32, **sizes: Any) -> Footprint:
    config = AutoConfig.for_model(architecture, **{**ARCHITECTURES[architecture], **sizes})
    return footprint(recipe, config, dtype, CPU, BATCH, Shape(3, 40, 60))


def chosen(method: str = "hycam", **training: Any) -> Recipe:
    settings = {} if method == "full" or method.endswith("matched") else {"r": 4}
    return changed(Recipe(method=MethodRecipe(method, settings)), gradient_accumulation=1, **training)


def real_micro_batch(recipe: Recipe, architecture: str, dtype: torch.dtype, **sizes: Any) -> int:
    """The peak of a forward and a backward pass with values, over the weights; by PyTorch's profiler."""
    entry = recipe.method
    model = tiny(architecture, dtype=torch.float32 if entry.name == "full" else dtype, **sizes)
    adapted = adapt(model, entry.name, entry.config).train()
    if recipe.training.gradient_checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(3, 90, (BATCH.rows, BATCH.length))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    row, position = torch.zeros(40, dtype=torch.int64), torch.arange(40)
    targets = ids[0, :40]
    casts = entry.name == "full" and dtype == torch.bfloat16

    def step() -> None:
        autocast = torch.autocast("cpu", torch.bfloat16) if casts else nullcontext()
        with head_at(adapted, row, position), autocast:
            outputs = adapted(
                input_ids=ids, attention_mask=mask, labels=ids, shift_labels=targets, num_items_in_batch=40
            )
        logits = outputs.logits.float() if casts else outputs.logits
        with torch.no_grad():
            F.cross_entropy(logits[0].float(), targets, reduction="none")
        outputs.loss.backward()

    with set_backend(recipe.training.backend):
        step()  # rotary tables and the like are made once
        adapted.zero_grad()
        return peak_bytes(step)


@pytest.mark.parametrize(
    ("method", "architecture", "dtype", "training"),
    [
        ("hycam", "llama", torch.float32, {}),
        ("hycam", "llama", torch.bfloat16, {"backend": "recompute"}),
        ("hycam", "qwen3_moe", torch.float32, {"backend": "reference"}),
        ("hycam", "llama", torch.float32, {"gradient_checkpointing": True}),
        ("lora", "gpt2", torch.float32, {}),
        ("multilora", "gemma3_text", torch.float32, {}),
        ("riemoe-lora", "llama", torch.bfloat16, {}),
        ("full", "llama", torch.bfloat16, {}),
    ],
)
def test_a_micro_batch_takes_what_was_counted_without_values(
    method: str, architecture: str, dtype: torch.dtype, training: dict
) -> None:
    recipe = chosen(method, **training)
    sizes = SIZES if architecture == "llama" else {}
    found = counted(recipe, architecture, dtype, **sizes)
    # Not counted is what an operation gives back before it returns.
    assert found.gradients + found.activations == pytest.approx(
        real_micro_batch(recipe, architecture, dtype, **sizes), rel=0.1
    )


@pytest.mark.soak
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_counted(architecture: str) -> None:
    found = counted(chosen(), architecture)
    assert found.gradients + found.activations == pytest.approx(
        real_micro_batch(chosen(), architecture, torch.float32), rel=0.25
    )
    assert counted(chosen("lora", gradient_checkpointing=True), architecture).activations < found.activations


def test_weights_gradients_and_states_are_what_the_real_ones_have() -> None:
    for method in ("hycam", "full"):
        found = counted(chosen(method))
        model = adapt(tiny("llama"), method, {} if method == "full" else {"r": 4})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        everything = sum(4 * parameter.numel() for parameter in model.parameters())
        buffers = sum(buffer.nbytes for buffer in model.buffers())
        optimizer = torch.optim.AdamW(trained)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        states = sum(
            value.nbytes for state in optimizer.state.values() for name, value in state.items() if name != "step"
        )
        assert found.weights + found.adapter == everything + buffers
        assert found.gradients == sum(4 * parameter.numel() for parameter in trained)
        assert found.states == states


def test_8_bit_states_are_those_of_bitsandbytes() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = adapt(tiny("llama", **SIZES), "hycam", {"r": 4})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = bitsandbytes.optim.AdamW8bit(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    names = ("state1", "state2", "absmax1", "absmax2")
    states = sum(state[name].nbytes for state in optimizer.state.values() for name in names if name in state)
    assert counted(chosen(optimizer_states="8bit"), **SIZES).states == states


@pytest.mark.parametrize("method", ["full", "riemoe-lora"])
def test_a_step_takes_what_was_counted(method: str) -> None:
    found = counted(chosen(method), **SIZES)
    model = adapt(tiny("llama", **SIZES), method, {} if method == "full" else {"r": 4})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = RiemannianAdamW(trained, factor_pairs(model)) if method != "full" else torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    real = peak_bytes(optimizer.step)
    if method == "full":
        assert found.step == pytest.approx(real, rel=0.1)
    else:  # a Cholesky factorisation and the solution with it take copies that are not seen
        assert real / 2 < found.step <= real


def test_accumulated_gradients_are_there_from_the_beginning() -> None:
    once = counted(chosen("full"), **SIZES)
    twice = counted(changed(chosen("full"), gradient_accumulation=2), **SIZES)
    assert once.activations < twice.activations
    assert once.gradients == twice.gradients


def test_no_memory_is_taken_for_a_model_far_too_large() -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=8192, intermediate_size=28672, num_hidden_layers=2, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    found = footprint(chosen("lora"), config, torch.bfloat16, CPU, Shape(8, 4096, 20000))
    assert found.weights > 7e9
    assert found.activations > 50e9


def test_a_storage_counts_once_and_until_nothing_refers_to_it() -> None:
    model = torch.nn.Linear(10, 10, device="meta")
    with without_memory(model, CPU) as live:
        assert live.now == 440
        one = torch.empty(100)
        view = one[:50]
        assert live.now == 440 + 400
        del one
        assert live.now == 440 + 400
        del view
        assert (live.now, live.peak) == (440, 840)
        y = model(torch.empty(3, 10)).exp()
        assert live.now == 440 + 120 + 120  # what exp gives, which it keeps, and the input that the layer keeps
        del y
        assert live.now == 440
    assert isinstance(live, LiveBytes)
