"""The check that the examples of a packed row (without padding) do not see one another.

No mask separates them: the backbone has to recognise them by their positions, which start anew. Some models make their
mask without looking at positions, and every model does so with a cache. So the model itself is tested before training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.utils import PeftType
from torch import Tensor
from transformers import PreTrainedModel

from hycam.errors import HycamError
from hycam.evaluation.mode import evaluating
from hycam.training.rows import PackedCollator
from hycam.tuners.hycam import HyCAMConfig

WHAT_TO_DO = "Set data.packing to false; data.group_by_length saves padding without packing."
HALVES = (torch.float16, torch.bfloat16)
LENGTHS = (7, 5, 6)  # of the examples that a model is checked with


def check_packing(model: PreTrainedModel) -> None:
    """Runs a few random examples, packed and each alone, and checks that none depends on another.

    Args:
        model: the adapted model on the device of its training. Neither it nor any random state is changed.

    Raises:
        HycamError: an example of a packed row sees another one, or its logits differ from those that it has alone.
    """
    kind = model.config.model_type
    adapters: dict[str, PeftConfig] = getattr(model, "peft_config", {})
    for adapter in adapters.values():
        if adapter.is_prompt_learning:
            raise HycamError(
                f"data.packing is not possible with {PeftType(adapter.peft_type).value}: it puts virtual tokens before "
                f"a row, and a packed row is several examples. {WHAT_TO_DO}"
            )
    words = cast(Tensor, model.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(0)
    examples = [torch.randint(len(words), (length,), generator=generator) for length in LENGTHS]
    first = LENGTHS[0]
    with evaluating(model), _without_noise(adapters):
        alone = torch.cat([_logits(model, [example]) for example in examples])
        with torch.enable_grad(), _embeddings_kept(model) as kept:
            packed = _logits(model, examples)
            (embedded,) = kept
            weights = torch.randn(packed[first:].shape, generator=generator).to(packed.device)
            (gradient,) = torch.autograd.grad((weights * packed[first:]).sum(), embedded)

    # Masked tokens have a gradient of exactly zero, in every type and however little attention adds to the logits.
    # Both comparisons are false for NaN, which proves nothing.
    if not (gradient[0, :first] == 0).all():
        raise HycamError(
            f"data.packing is not possible with {kind}: the examples of a packed row see one another (the logits of "
            f"the later ones depend on the first one). {WHAT_TO_DO}"
        )
    # Relative, since the size of logits depends on the model. Packed ones are computed in other shapes and round
    # differently: on a real model by 3e-6 in float32 and by 0.03 in bfloat16. Wrong positions: 0.8.
    differs = (_size(packed.detach() - alone) / _size(alone - alone.mean(dim=0))).item()
    if not differs < (0.25 if words.dtype in HALVES else 0.01):
        raise HycamError(
            f"data.packing is not possible with {kind}: in a packed row the logits of an example are not those that it "
            f"has alone (they differ by {differs:.2g} of their standard deviation). {WHAT_TO_DO}"
        )


def _logits(model: PreTrainedModel, examples: list[Tensor]) -> Tensor:
    """The logits of the examples, packed, in float32: ``[T, V]``."""
    batch = PackedCollator()([{"input_ids": ids, "labels": ids, "task": 0, "row": 0} for ids in examples])
    device = model.get_input_embeddings().weight.device
    ids, positions = batch["input_ids"].to(device), batch["position_ids"].to(device)
    return model(input_ids=ids, position_ids=positions, use_cache=batch["use_cache"]).logits[0].float()


def _size(difference: Tensor) -> Tensor:
    """The root mean square."""
    return difference.square().mean().sqrt()


@contextmanager
def _embeddings_kept(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects the outputs of the input embedding, ``[1, T, d]`` each, as leaves of the graph."""
    kept: list[Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # some models scale their embeddings in place

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def _without_noise(adapters: dict[str, PeftConfig]) -> Iterator[None]:
    """Switches off HyCAM's routing noise, which may be drawn in evaluation too."""
    noises = [(config, config.noise) for config in adapters.values() if isinstance(config, HyCAMConfig)]
    try:
        for config, _ in noises:
            config.noise = "never"
        yield
    finally:
        for config, noise in noises:
            config.noise = noise
