"""Retention of a run folder."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam import backbones
from hycam.data.chosen import chosen_tasks
from hycam.evaluation.retention.base import base_of
from hycam.evaluation.retention.measure import Reports, measure
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.device import torch_device, torch_dtype
from hycam.training.run import BASE, Run


def measure_retention(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RetentionRecipe,
    reporter: Reports,
) -> dict[str, Any]:
    """What a run's model, which ``run.load()`` has given, has kept of its backbone.

    Tasks that bear on any of the recipe's own are left out, also where only some of those were trained: then all runs
    of a study are measured on the same ones.

    Returns:
        what :mod:`hycam.evaluation.retention` describes.

    Raises:
        HycamError: the rows or the backbone cannot be had.
    """
    recipe = run.recipe()

    def load() -> PreTrainedModel:
        device = torch_device(recipe.training.device)
        return backbones.load(recipe.backbone, torch_dtype(recipe.training.precision, device), device)

    base = None if recipe.method.name == BASE else base_of(model, load)
    return measure(model, tokenizer, base, settings, reporter, tuned=chosen_tasks(recipe.data))
