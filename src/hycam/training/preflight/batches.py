"""The batches that a recipe makes of its data: how many steps they are, and which of them is the largest."""

from __future__ import annotations

from itertools import chain, zip_longest

import datasets
import numpy as np
from transformers import PreTrainedConfig

from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.evaluation.batching import batches_by_length
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows

# Korthikanti et al. (2022, arXiv:2205.05198): a block keeps about 34 bytes a token and hidden unit of 16-bit values.
_VALUES_KEPT = 17
_VALIDATION_TOKENS = 2048  # as hycam.evaluation.perplexity.response_nll bounds its batches


def batches_of(recipe: Recipe, rows: MixedRows, processes: int = 1, process: int = 0) -> Batches:
    """The micro-batches of a run, in its order, of one of the processes that train together."""
    data = recipe.data
    return Batches(
        Mixture(data.mixture, rows.sizes, recipe.training.seed),
        rows.lengths,
        recipe.training.batch_size,
        data.max_length,
        packing=data.packing,
        group_by_length=data.group_by_length,
        processes=processes,
        process=process,
    )


def steps_of(recipe: Recipe, batches: Batches) -> int:
    """Optimizer steps of the whole run, as the trainer counts them."""
    settings = recipe.training
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, int(np.ceil(settings.epochs * _steps_in_epoch(recipe, batches))))


def largest_batch(recipe: Recipe, data: dict[str, datasets.Dataset], config: PreTrainedConfig, world: int) -> list[int]:
    """The rows of the largest micro-batch of the whole run, those of all processes, as :class:`MixedRows` counts them.

    The largest has the most tokens on one process, padding included. A labelled token counts for more than one, since
    logits are computed for it: as much more as its logits take beside what a token's activations take.
    """
    rows = MixedRows(data)
    labelled = np.concatenate([_labelled(part) for part in data.values()])
    blocks = 1 if recipe.training.gradient_checkpointing else config.get_text_config().num_hidden_layers
    weight = _label_weight(config, blocks)

    def size(batch: list[int]) -> float:
        lengths = rows.lengths[batch]
        tokens = lengths.sum() if recipe.data.packing else len(batch) * lengths.max(initial=0)
        return tokens + weight * labelled[batch].sum()

    shares = [batches_of(recipe, rows, world, process) for process in range(world)]
    whole_epochs, steps = divmod(steps_of(recipe, shares[0]), _steps_in_epoch(recipe, shares[0]))
    left = whole_epochs * len(shares[0]) + steps * recipe.training.gradient_accumulation
    largest: tuple[list[int], ...] = ()
    most, epoch = -1.0, 0
    while left > 0:
        for share in shares:
            share.set_epoch(epoch)
        for parts in zip(*shares, strict=True):
            if left > 0 and (found := max(map(size, parts))) > most:
                most, largest = found, parts
            left -= 1
        epoch += 1
    return [row for row in chain(*zip_longest(*largest)) if row is not None]


def largest_validation_batch(
    tasks: dict[str, datasets.Dataset], config: PreTrainedConfig, batch_size: int
) -> dict[str, datasets.Dataset]:
    """The rows of the largest validation batch, in their task. Nothing is kept for a backward pass, so logits rule."""
    weight = _label_weight(config, blocks=1)
    most, largest = -1.0, {}
    for name, rows in tasks.items():
        lengths, labelled = MixedRows({name: rows}).lengths, _labelled(rows)
        for batch in batches_by_length(lengths.tolist(), batch_size, _VALIDATION_TOKENS):
            size = len(batch) * lengths[batch].max() + weight * labelled[batch].sum()
            if size > most:
                most, largest = size, {name: rows.select(batch)}
    return largest


def _steps_in_epoch(recipe: Recipe, batches: Batches) -> int:
    return max(1, -(-len(batches) // recipe.training.gradient_accumulation))


def _label_weight(config: PreTrainedConfig, blocks: int) -> float:
    """The values that the loss holds of a labelled token (logits, probabilities, gradient) over those of any token."""
    text = config.get_text_config()
    return 3 * text.vocab_size / (_VALUES_KEPT * blocks * text.hidden_size)


def _labelled(rows: datasets.Dataset) -> np.ndarray:
    """Labelled tokens of each row, ``[rows]``."""
    return rows.select_columns(["trained"]).with_format("numpy")[:]["trained"]
