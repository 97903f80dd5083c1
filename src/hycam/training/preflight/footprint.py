"""What one training run holds in memory, part by part: the real code on the real model, without memory or values.

The adapted backbone is built on the meta device. One micro-batch then goes forward and backward through it, one step is
taken, and one batch is validated, all on tensors that have a shape, a type and a device only
(:mod:`hycam.training.preflight.live_bytes`), while every allocation is counted. So no architecture, method or backend
has a formula here, and what a new one keeps for its backward pass is counted as well.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from hycam.adapt import adapt, empty_backbone
from hycam.evaluation.mode import evaluating
from hycam.labelled import head_at
from hycam.methods import method
from hycam.ops import mixing, set_backend
from hycam.optim import OptimizerSettings, RiemannianAdamW, factor_pairs
from hycam.training.preflight.heap import Events, held_at_most, is_glibc
from hycam.training.preflight.live_bytes import LiveBytes, without_memory
from hycam.training.recipe import Recipe
from hycam.tuners.targets import linear_layers

_BLOCK = 256  # values that share a scale in 8-bit states
_SMALL = 4096  # a weight of fewer values has 32-bit states


@dataclass(frozen=True)
class Shape:
    """The shape of a batch: ``rows`` by ``length`` tokens, of which ``labelled`` carry the loss.

    ``padded``: whether some of them are padding; attention then has a mask as large as ``length`` squared.
    """

    rows: int
    length: int
    labelled: int
    padded: bool = True
    packed: bool = False


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device.

    Attributes:
        weights: the backbone's, those that are trained in full fine-tuning too.
        adapter: the weights of the adapter.
        gradients: of all that is trained.
        states: of the optimizer.
        activations: the most that a micro-batch has at once beside all those: what the forward pass keeps for the
            backward pass, and what the operations at that moment need.
        step: the most that an optimizer step needs beside the weights, gradients and states.
        validation: the most that a validation batch needs beside the weights and states.
        unused: what the allocator holds beyond all that while it trains, on a CPU: freed and not given back.
        unused_in_validation: the same while it validates.
    """

    weights: int
    adapter: int
    gradients: int
    states: int
    activations: int
    step: int
    validation: int
    unused: int = 0
    unused_in_validation: int = 0

    @property
    def training(self) -> int:
        """While a micro-batch is computed; from the second step on the optimizer's states are there."""
        return self.weights + self.adapter + self.states + self.gradients + self.activations + self.unused

    @property
    def stepping(self) -> int:
        return self.weights + self.adapter + self.states + self.gradients + self.step + self.unused_in_validation

    @property
    def validating(self) -> int:
        return self.weights + self.adapter + self.states + self.validation + self.unused_in_validation

    @property
    def peak(self) -> int:
        return max(self.training, self.stepping, self.validating)


def footprint(
    recipe: Recipe,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    batch: Shape,
    validation: Shape | None = None,
) -> Footprint:
    """Counts what a recipe needs with micro-batches of one shape.

    Args:
        recipe: its method, backend, gradient checkpointing, accumulation and optimizer are looked at.
        config: the backbone's configuration.
        dtype: of the frozen backbone; in full fine-tuning the type that is computed in.
        device: where it is trained. Its attention kernels decide what is kept, so a GPU has to be there.
        batch: of training.
        validation: of a validation batch; None counts none.

    Raises:
        HycamError: the method cannot adapt this backbone.
        RuntimeError: the model's code needs values to go on, and cannot be counted in this way.
    """
    settings, entry = recipe.training, method(recipe.method.name)
    optimizer = recipe.method.settings()
    weights_type = torch.float32 if entry.trains_backbone else dtype
    backbone = empty_backbone(config, recipe.trust_remote_code, weights_type)
    saved = _saved_by_quantization(backbone, recipe)
    model = adapt(backbone, entry.name, recipe.method.config, empty=True)
    if settings.gradient_checkpointing:
        # Without values there is no state of random numbers to keep either.
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(map(_bytes, trained))
    # Not all is weights: rotary tables are buffers, and belong to the backbone.
    everything = sum({id(t): _bytes(t) for t in (*model.parameters(), *model.buffers())}.values())
    states = _state_bytes(model, recipe)
    casts = entry.trains_backbone and dtype == torch.bfloat16
    with ExitStack() as stack:
        stack.enter_context(set_backend(settings.backend))
        _few_chunks(batch, stack)
        live = stack.enter_context(without_memory(model, device))
        counted = _Counted(cast(PreTrainedModel, model), device, live, casts)
        activations = counted.micro_batch(batch, accumulated=settings.gradient_accumulation > 1)
        step = counted.step(optimizer) if settings.optimizer_states == "32bit" else 0
        validated = counted.validation(validation) if validation is not None else 0
    unused = unused_in_validation = 0
    if device.type == "cpu" and is_glibc():
        micro_batch, of_validation = counted.events["micro_batch"], counted.events.get("validation", [])
        most, then = held_at_most(micro_batch, counted.forward_ends, states, of_validation)
        unused = max(0, most - sum(states) - activations)
        unused_in_validation = max(0, then - sum(states) - validated)
    return Footprint(
        weights=everything - (0 if entry.trains_backbone else gradients) - saved,
        adapter=0 if entry.trains_backbone else gradients,
        gradients=gradients,
        states=sum(states),
        activations=max(0, activations - gradients),
        step=step,
        validation=validated,
        unused=unused,
        unused_in_validation=unused_in_validation,
    )


def _few_chunks(batch: Shape, stack: ExitStack) -> None:
    """Has the modulation go through many tokens in eight chunks and not in a hundred, each of which takes time.

    A chunk is then an eighth of a hidden state, of which a block keeps dozens.
    """
    stack.callback(setattr, mixing, "CPU_CHUNK", mixing.CPU_CHUNK)
    mixing.CPU_CHUNK = max(mixing.CPU_CHUNK, batch.rows * batch.length // 8)


class _Counted:
    """The adapted model under :class:`LiveBytes`."""

    def __init__(self, model: PreTrainedModel, device: torch.device, live: LiveBytes, casts: bool) -> None:
        self.model, self.device, self.live, self.casts = model, device, live, casts
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.events: dict[str, Events] = {}
        self.forward_ends = 0

    def micro_batch(self, shape: Shape, accumulated: bool) -> int:
        """Forward and backward, as the trainer does them: the most bytes over what was there, gradients included."""
        self.model.train()
        before = self.live.reset()
        self.live.events.clear()
        if accumulated:
            for parameter in self.parameters:
                parameter.grad = torch.empty_like(parameter)
        inputs, row, targets = self._batch(shape)
        self.live.truth = not (shape.padded or shape.packed)
        with head_at(self.model, row, row), self._autocast():
            outputs = self.model(
                **inputs, labels=inputs["input_ids"], shift_labels=targets, num_items_in_batch=shape.labelled
            )
        logits = outputs.logits.float() if self.casts else outputs.logits  # accelerate hands them on in float32
        with torch.no_grad():
            F.cross_entropy(logits[0].float(), targets, reduction="none")  # each task's own loss, for the log
        self.forward_ends = len(self.live.events)
        outputs.loss.backward()
        del outputs, logits
        self.live.truth = False
        self.events["micro_batch"] = list(self.live.events)
        return self.live.peak - before

    def step(self, settings: OptimizerSettings) -> int:
        """One step of the optimizer: the most bytes beside weights, gradients and states. The states are dropped."""
        optimizer: torch.optim.Optimizer
        if settings.preconditioned:
            optimizer = RiemannianAdamW(self.parameters, factor_pairs(self.model), settings.damping)
        else:
            optimizer = torch.optim.AdamW(self.parameters)
        before = self.live.reset()
        optimizer.step()
        beside = self.live.peak - max(self.live.now, before)
        optimizer.zero_grad()
        return beside

    def validation(self, shape: Shape) -> int:
        before = self.live.reset()
        self.live.events.clear()
        inputs, row, targets = self._batch(shape)
        self.live.truth = not shape.padded
        with evaluating(self.model), head_at(self.model, row, row), self._autocast():
            logits = self.model(**inputs, use_cache=False).logits[0]
            F.cross_entropy(logits.float(), targets, reduction="none")
        del logits
        self.events["validation"] = list(self.live.events)
        return self.live.peak - before

    def _batch(self, shape: Shape) -> tuple[dict[str, Any], Tensor, Tensor]:
        """What the model takes, which row's hidden states go on to the head, and their targets."""
        ids = torch.zeros(shape.rows, shape.length, dtype=torch.int64, device=self.device)
        labelled = torch.zeros(shape.labelled, dtype=torch.int64, device=self.device)
        if shape.packed:
            return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "use_cache": False}, labelled, labelled
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labelled, labelled

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.casts else nullcontext()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _saved_by_quantization(backbone: PreTrainedModel, recipe: Recipe) -> int:
    """How much less the weights of the linear layers take in 8 or 4 bits. What they compute is counted as if whole."""
    if recipe.quantization is None:
        return 0
    per_value = 1.0 if recipe.quantization == "8bit" else 0.52  # with the scales
    weights = [backbone.get_submodule(name).weight for name in linear_layers(backbone)]
    return sum(_bytes(cast(Tensor, w)) - int(cast(Tensor, w).numel() * per_value) for w in weights)


def _state_bytes(model: nn.Module, recipe: Recipe) -> list[int]:
    """Of each moment of every weight that is trained, as the optimizer keeps it."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found: list[int] = []
    for weight in model.parameters():
        if not weight.requires_grad:
            continue
        in_8_bits = recipe.training.optimizer_states == "8bit"
        if in_8_bits and weight.numel() >= _SMALL and id(weight) not in embeddings:
            found += 2 * [weight.numel() + 4 * -(-weight.numel() // _BLOCK)]
        else:
            found += 2 * [weight.numel() * (4 if in_8_bits else weight.element_size())]
    return found


def changed(recipe: Recipe, **training: Any) -> Recipe:
    """The recipe with other settings of training."""
    return replace(recipe, training=replace(recipe.training, **training))
