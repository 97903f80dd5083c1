"""Retention of a finished run, and of a model in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam import backbones
from hycam.console import Reports
from hycam.data.chosen import chosen_tasks
from hycam.evaluation.retention.measure import Retention, base_of
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import Recipe
from hycam.training.run import BASE, Run


def measure_retention(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RetentionRecipe,
    reporter: Reports,
) -> dict[str, Any]:
    """What the model of ``run.load()`` has kept of its backbone, as :mod:`hycam.evaluation.retention` describes.

    Tasks related to any of the recipe's are skipped, even if those were not trained, so that all runs of a study are
    measured on the same ones.

    Raises:
        HycamError: the rows or the backbone cannot be had.
    """
    return _retention(run.recipe(), model, tokenizer, settings, reporter).measure()


def retention_while_training(
    recipe: Recipe, settings: RetentionRecipe, reporter: Reports
) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]:
    """What :func:`hycam.training.train.train` takes as ``also``: retention at every validation.

    It gives ``retention_TASK``, the bits per byte of a task less the backbone's, and ``kl_lambada`` and ``kl_replies``
    in nats per token.
    """
    retention: Retention | None = None

    def measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        nonlocal retention
        retention = retention or _retention(recipe, model, tokenizer, settings, reporter)
        found = retention.measure()
        kept = {f"retention_{name}": task["difference"] for name, task in found["tasks"].items()}
        return kept | {f"kl_{name}": divergence["mean"] for name, divergence in found["kl"].items()}

    return measured


def _retention(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RetentionRecipe,
    reporter: Reports,
) -> Retention:
    def load() -> PreTrainedModel:
        further = recipe.trust_remote_code, recipe.quantization
        return backbones.load(recipe.backbone, model.dtype, model.device, *further)

    base = None if recipe.method.name == BASE else base_of(model, load)
    return Retention(model, tokenizer, base, settings, reporter, tuned=chosen_tasks(recipe.data))
