"""Does a run fit into memory, and what would make it fit?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedConfig

from hycam.data.prepare import Prepared
from hycam.methods import method
from hycam.training.device import torch_device, torch_dtype
from hycam.training.preflight.backbone import Weights
from hycam.training.preflight.footprint import Footprint, Shape, changed, footprint
from hycam.training.preflight.room import available
from hycam.training.preflight.shapes import batches_of, counts, largest, steps_of, training_shapes, validation_shapes
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows
from hycam.tuners.hycam import HyCAMConfig

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_OF_LOGITS = 12  # bytes of a logit at the fullest moment: it, its softmax and its gradient, in float32


@dataclass(frozen=True)
class Estimate:
    """The most memory that a run holds at once, in bytes, and what it is made of.

    Attributes:
        device: where.
        libraries: the interpreter, the libraries and the data, as this process has them; 0 on a GPU.
        footprint: the model and what training adds to it, by the largest batch.
        loading: what is there while the weights are read, beside the libraries.
        batch: the training batch that needs the most.
        validation: the validation batch that needs the most.
        available: what the device has free, beside what this process holds already.
    """

    device: torch.device
    libraries: int
    footprint: Footprint
    loading: int
    batch: Shape
    validation: Shape
    available: int

    @property
    def peak(self) -> int:
        return self.libraries + max(self.footprint.peak, self.loading)

    @property
    def fits(self) -> bool:
        """Whether the peak is within what is free. The libraries are here already, so they are there twice."""
        return self.peak - self.libraries <= self.available

    @property
    def moment(self) -> str:
        """When the most is held."""
        moments = {
            "a training step": self.footprint.training,
            "a step of the optimizer": self.footprint.stepping,
            "validation": self.footprint.validating,
            "loading the weights": self.loading,
        }
        return max(moments, key=lambda name: moments[name])

    def parts(self) -> dict[str, int]:
        """The parts of the peak; they add up to it."""
        one = self.footprint
        held = {"interpreter, libraries, data": self.libraries} if self.libraries else {}
        model = {"backbone": one.weights, "adapter": one.adapter, "optimizer states": one.states}
        beside: dict[str, dict[str, int]] = {
            "a training step": {
                **model,
                "gradients": one.gradients,
                "activations": one.activations,
                "freed, not given back": one.unused,
            },
            "a step of the optimizer": {
                **model,
                "gradients": one.gradients,
                "the step itself": one.step,
                "freed, not given back": one.unused_in_validation,
            },
            "validation": {
                **model,
                "a validation batch": one.validation,
                "freed, not given back": one.unused_in_validation,
            },
            "loading the weights": {"the file and the weights": self.loading},
        }
        return {**held, **{name: size for name, size in beside[self.moment].items() if size}}


def estimate(
    recipe: Recipe, config: PreTrainedConfig, data: Prepared, weights: Weights, libraries: int, free: int | None = None
) -> Estimate:
    """Counts what a run of this recipe holds at most.

    Args:
        recipe: what is to be trained.
        config: of the backbone.
        data: decide the batches.
        weights: the backbone's files.
        libraries: what a process of this program holds before it loads a model (:func:`~.room.resident`).
        free: bytes that may be taken; by default what the device has free now.

    Raises:
        HycamError: the method does not work on this backbone.
        RuntimeError: the model's code needs values, so that nothing can be counted without them.
    """
    device = torch_device(recipe.training.device)
    dtype = torch_dtype(recipe.training.precision, device)
    rows = MixedRows(data.train)
    trained = np.concatenate([counts(part)[1] for part in data.train.values()])
    batches = batches_of(recipe, rows)
    shapes = training_shapes(recipe, rows, batches, trained)
    per_labelled = float(_OF_LOGITS * config.get_text_config().vocab_size)
    # A validation keeps nothing for a backward pass: beside the logits there is little.
    validation = largest(validation_shapes(data.validation, recipe.evaluation.batch_size), 1.0, per_labelled)
    batch = shapes[0]  # of the most tokens
    found = footprint(recipe, config, dtype, device, batch, validation)
    of_a_token = (found.gradients + found.activations - per_labelled * batch.labelled) / (batch.rows * batch.length)
    other = largest(shapes, max(0.0, of_a_token), per_labelled)
    if other != batch:
        again = footprint(recipe, config, dtype, device, other, validation)
        if again.peak > found.peak:
            batch, found = other, again
    if steps_of(recipe, batches) == 1:  # the states come with the first step, and its activations are gone by then
        found = _without_states_while_computing(found)
    return Estimate(
        device=device,
        libraries=libraries if device.type == "cpu" else 0,
        footprint=found,
        loading=_loading(found, dtype if not method(recipe.method.name).trains_backbone else torch.float32, weights),
        batch=batch,
        validation=validation,
        available=available(device) if free is None else free,
    )


@dataclass(frozen=True)
class Alternative:
    """A change of the recipe, in words and as options, and the estimate with it."""

    what: str
    options: str
    estimate: Estimate


def alternatives(
    recipe: Recipe, estimated: Callable[[Recipe], Estimate], progress: Callable[[int, int], None] | None = None
) -> list[Alternative]:
    """What would save memory, each change by itself and then, where no one fits, all together.

    Args:
        recipe: what does not fit.
        estimated: gives the estimate of another recipe.
        progress: called with how many are done and how many there are.
    """
    changes = _changes(recipe)
    found = []
    for number, (what, options) in enumerate(changes):
        if progress is not None:
            progress(number, len(changes) + 1)
        found.append(Alternative(what, _as_options(options), estimated(changed(recipe, **options))))
    together = {name: value for _, options in changes for name, value in options.items()}
    if len(changes) > 1 and not any(one.estimate.fits for one in found):
        found.append(
            Alternative("all of these together", _as_options(together), estimated(changed(recipe, **together)))
        )
    if progress is not None:
        progress(len(changes) + 1, len(changes) + 1)
    return found


def _changes(recipe: Recipe) -> list[tuple[str, dict[str, object]]]:
    """The changes that work with this recipe, those that cost the least time first."""
    settings, entry = recipe.training, method(recipe.method.name)
    device = torch_device(settings.device)
    found: list[tuple[str, dict[str, object]]] = []
    if entry.config_class is HyCAMConfig and settings.backend != "recompute" and not settings.torch_compile:
        found.append(("the recompute backend", {"backend": "recompute"}))
    if settings.optimizer_states == "32bit" and not recipe.method.settings().preconditioned:
        found.append(("8-bit optimizer states", {"optimizer_states": "8bit"}))
    if torch_dtype(settings.precision, device) == torch.float32:
        found.append(("bfloat16", {"precision": "bfloat16"}))
    if settings.batch_size > 1:
        accumulated = settings.gradient_accumulation * 2
        found.append(
            (
                "half the batch, twice the accumulation",
                {"batch_size": settings.batch_size // 2, "gradient_accumulation": accumulated},
            )
        )
    if not settings.gradient_checkpointing:
        found.append(("gradient checkpointing", {"gradient_checkpointing": True}))
    return found


def _as_options(changes: dict[str, object]) -> str:
    return " ".join(f"--training.{name} {str(value).lower()}" for name, value in changes.items())


def _loading(found: Footprint, dtype: torch.dtype, weights: Weights) -> int:
    """Beside the weights there is their file where it has to be converted; else it is mapped, and is the weights."""
    if weights.size is None or not weights.dtypes or weights.dtypes == {_NAMES[dtype]}:
        return found.weights
    return found.weights + weights.size


def _without_states_while_computing(found: Footprint) -> Footprint:
    """As activations less what the states take: they are not there together."""
    return replace(found, activations=max(0, found.activations - found.states))
