"""Libraries that save memory and time in training: what each switch needs, and how it is applied to a model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_bitsandbytes_available

from hycam import backbones
from hycam.errors import HycamError
from hycam.methods import method
from hycam.optim import OptimizerSettings
from hycam.quantization import check_quantization, quantized_before
from hycam.training.recipe import Recipe
from hycam.tuners.base import Tuner

_FIRST_ON_A_CPU = "0.50"  # of bitsandbytes
# A backbone may have two kinds of blocks, and a batch of one row is a special case: twice four graphs and more. Past
# the limit, eight by default, the compiler stops compiling.
_MOST_GRAPHS = 64
_CXX = "clang++" if sys.platform == "darwin" else "g++"  # as the compiler has it
_NO_SIDE_EFFECTS_AGAIN = "skip_fwd_side_effects_in_bwd_under_checkpoint"


def refusals(recipe: Recipe, device: torch.device, optimizer: OptimizerSettings) -> list[HycamError]:
    """Every switch of the recipe that does not work here, why, and what to do instead. Loads no backbone."""
    settings = recipe.training
    checks: list[tuple[bool, Callable[[], None]]] = [
        (True, lambda: _check_quantized(recipe, device)),
        (settings.use_liger_kernel, lambda: _check_liger(recipe, device)),
        (settings.optimizer_states == "8bit", lambda: _check_8bit(optimizer)),
        (settings.torch_compile, lambda: _check_compile(settings.backend, device)),
    ]
    found = []
    for is_on, check_switch in checks:
        if is_on:
            try:
                check_switch()
            except HycamError as error:
                found.append(error)
    return found


def _check_quantized(recipe: Recipe, device: torch.device) -> None:
    before = quantized_before(backbones.config(recipe.backbone, recipe.trust_remote_code))
    if recipe.quantization is None and before is None:
        return
    how = before or recipe.quantization
    if recipe.quantization is not None:
        check_quantization(recipe.quantization, device)
    entry = method(recipe.method.name)
    if entry.trains_backbone:
        raise HycamError(
            f"The method {entry.name} trains the backbone's own weights, and quantised ones ({how}) cannot be trained. "
            "Take an adapter, such as hycam or lora, or a backbone that is not quantised."
        )
    config = entry.config(recipe.method.config)
    assert config is not None
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    # A method of PEFT supports quantised weights only through layers of its own, in a file of this name.
    if not issubclass(tuner, Tuner) and importlib.util.find_spec(f"{tuner.__module__.rpartition('.')[0]}.bnb") is None:
        raise HycamError(
            f"The method {PeftType(config.peft_type).value} of PEFT has no layers for quantised weights ({how}). Take "
            "another one, such as LORA, or leave quantization at null."
        )


def _check_liger(recipe: Recipe, device: torch.device) -> None:
    if device.type != "cuda":
        raise HycamError(
            "training.use_liger_kernel needs a GPU, since Liger's kernels are written in Triton. Leave it off here; on "
            "a CPU training.backend=recompute and training.gradient_checkpointing save memory."
        )
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as known
    except ImportError as error:
        raise HycamError(
            f"training.use_liger_kernel needs the package liger-kernel ({error}): pip install 'hycam[liger]', or leave "
            "it off."
        ) from error
    kind = backbones.config(recipe.backbone, recipe.trust_remote_code).model_type
    if kind not in known:
        raise HycamError(
            f"Liger has no kernels for {recipe.backbone}, a backbone of the type {kind}. Leave "
            "training.use_liger_kernel off."
        )


def _check_8bit(optimizer: OptimizerSettings) -> None:
    if optimizer.preconditioned:
        raise HycamError(
            "training.optimizer_states=8bit is for AdamW; the states of the riemannian optimizer are 32bit. Leave "
            "them at that, or set method.optimizer.name to adamw."
        )
    if not is_bitsandbytes_available(_FIRST_ON_A_CPU):
        raise HycamError(
            f"training.optimizer_states=8bit needs the package bitsandbytes, {_FIRST_ON_A_CPU} or later: pip install "
            "'hycam[quantization]', or leave the states at 32bit."
        )


def _check_compile(backend: str, device: torch.device) -> None:
    if backend == "recompute":
        raise HycamError(
            "training.backend=recompute does not go with training.torch_compile: what is kept for the backward pass is "
            "the compiler's choice then. Take training.gradient_checkpointing for less memory, or leave one of the two "
            "off."
        )
    if not hasattr(torch._dynamo.config, _NO_SIDE_EFFECTS_AGAIN):
        raise HycamError(
            f"training.torch_compile needs a later PyTorch than {torch.__version__}: pip install 'torch>=2.10', or "
            "leave it off."
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise HycamError("training.torch_compile needs Triton on a GPU: pip install triton, or leave it off.")
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", _CXX)) is None:
        raise HycamError(
            f"training.torch_compile needs a C++ compiler on a CPU ({_CXX}, or the one that CXX names), and there is "
            "none. Install one, or leave it off."
        )


def use_liger(model: PreTrainedModel, undo: ExitStack) -> None:
    """Puts Liger's kernels into a backbone that has no adapter yet: norms, feed-forward networks, rotary embedding.

    Head and cross-entropy stay: Liger's fused form of them takes the hidden states of all positions, not only those
    that :mod:`hycam.labelled` selects, and returns no logits for the losses of each task.

    Args:
        model: the backbone.
        undo: restores what Liger changes for other models of this class: the names of norm, feed-forward network and
            rotary embedding in its module.
    """
    module = vars(sys.modules[type(model).__module__])
    undo.callback(module.update, dict(module))
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def blocks_to_compile(model: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone, adapted or not; raises HycamError if transformers marks none as such."""
    blocks: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise HycamError(
            f"training.torch_compile compiles block by block, and {type(model).__name__} has no blocks that "
            "transformers marks as such. Leave it off."
        )
    return blocks


def compile_blocks(model: nn.Module, undo: ExitStack) -> None:
    """Compiles every block of an adapted backbone, in place, for batches of any size and length.

    All blocks run the same code, so a few graphs serve them: one for the first block, whose input needs no gradient,
    and one for the rest, each with and without padding. A graph of the whole model would take as many times as long to
    compile as there are blocks.

    Args:
        model: the adapted backbone.
        undo: restores the compiler's settings.

    Raises:
        HycamError: transformers marks none of its modules as a block.
    """
    blocks = blocks_to_compile(model)
    # A HyCAM layer records its routing for the balance loss in the forward pass, but must not when gradient
    # checkpointing repeats that. By default the compiler refuses such a block.
    settings: dict[str, Any] = {_NO_SIDE_EFFECTS_AGAIN: True, "recompile_limit": _MOST_GRAPHS}
    undo.enter_context(torch._dynamo.config.patch(settings))
    for block in blocks:
        block.compile(dynamic=True)
