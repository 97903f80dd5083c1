"""The largest batches of a run, as they will be made of its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import datasets
import numpy as np

from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.evaluation.batching import batches_by_length
from hycam.training.preflight.footprint import Shape
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows

MOST_BATCHES = 20_000
"""So many micro-batches are looked at, in the order of training: a longer run may have a larger one later."""


def batches_of(recipe: Recipe, rows: MixedRows, processes: int = 1) -> Batches:
    """The micro-batches of a run, in its order; of the first of several processes those that it has."""
    data = recipe.data
    return Batches(
        Mixture(data.mixture, rows.sizes, recipe.training.seed),
        rows.lengths,
        recipe.training.batch_size,
        data.max_length,
        packing=data.packing,
        group_by_length=data.group_by_length,
        processes=processes,
    )


def steps_of(recipe: Recipe, batches: Batches) -> int:
    """Optimizer steps of the whole run, as the trainer counts them."""
    settings = recipe.training
    if settings.max_steps is not None:
        return settings.max_steps
    in_epoch = max(1, -(-len(batches) // settings.gradient_accumulation))
    return max(1, int(np.ceil(settings.epochs * in_epoch)))


def training_shapes(recipe: Recipe, rows: MixedRows, batches: Batches, trained: np.ndarray) -> list[Shape]:
    """The shapes of the micro-batches of a run, each once.

    Args:
        recipe: says how many there are.
        rows: the training rows.
        batches: theirs, from :func:`batches_of`.
        trained: labelled tokens of each row, ``[rows]``.
    """
    number = min(MOST_BATCHES, steps_of(recipe, batches) * recipe.training.gradient_accumulation)

    def in_order() -> Iterator[list[int]]:
        for epoch in range(-(-number // max(1, len(batches)))):
            batches.set_epoch(epoch)
            yield from batches

    found = {_shape(rows.lengths[one], trained[one], batches.packing) for one in islice(in_order(), number)}
    batches.set_epoch(0)
    return sorted(found, key=lambda shape: (shape.rows * shape.length, shape.labelled), reverse=True)


def validation_shapes(tasks: Mapping[str, datasets.Dataset], batch_size: int, batch_tokens: int = 2048) -> list[Shape]:
    """The shapes of the batches of a validation, each once; see :func:`hycam.evaluation.perplexity.response_nll`."""
    found = set()
    for dataset in tasks.values():
        length, trained = counts(dataset)
        batches = batches_by_length(length.tolist(), batch_size, batch_tokens)
        found |= {_shape(length[one], trained[one], False) for one in batches}
    return sorted(found, key=lambda shape: (shape.rows * shape.length, shape.labelled), reverse=True)


def counts(dataset: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and labelled tokens of each row of a prepared part, ``[rows]`` each."""
    trained = dataset.select_columns(["trained"]).with_format("numpy")[:]["trained"]
    return MixedRows({"": dataset}).lengths, trained


def largest(shapes: Iterable[Shape], per_token: float, per_labelled: float) -> Shape:
    """The shape that needs the most memory, given what a token and a labelled token need."""
    return max(shapes, key=lambda shape: per_token * shape.rows * shape.length + per_labelled * shape.labelled)


def _shape(length: np.ndarray, trained: np.ndarray, packed: bool) -> Shape:
    if packed:
        return Shape(1, int(length.sum()), int(trained.sum()), padded=False, packed=True)
    longest = int(length.max())
    return Shape(len(length), longest, int(trained.sum()), padded=bool((length != longest).any()))
