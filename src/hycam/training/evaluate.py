"""Evaluation of a finished run, and retention, of a model in training too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hycam import backbones
from hycam.console import Reports
from hycam.data.chosen import chosen_tasks
from hycam.data.prepare import prepare
from hycam.errors import HycamError
from hycam.evaluation.evaluate import evaluate
from hycam.evaluation.retention.measure import Retention, base_of
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import EvaluationRecipe, Recipe
from hycam.training.run import BASE, Run


def evaluate_run(run: Run, settings: EvaluationRecipe, reporter: Reports) -> dict[str, Any]:
    """Reloads the backbone and the saved adapter and evaluates them on one part of the run's own data.

    Writes ``metrics.json`` and ``predictions.jsonl`` into ``RUN/evaluation/PART/``.

    Returns:
        the metrics: ``tasks``, ``macro``, ``pooled``, ``bleu_signature`` and ``max_new_tokens``.

    Raises:
        HycamError: the run is not complete, or the data cannot be had or have changed since training.
    """
    model, tokenizer = run.load(settings.config)
    data = prepare(run.recipe().data, tokenizer, reporter.update)
    summary = run.summary()
    if summary is not None and summary["data"] != data.fingerprint:
        raise HycamError(
            f"The data of {run.folder} are not those that it was trained on (a file has changed since), so rows that "
            "were trained may be among those to evaluate. Bring the old data back, or train again."
        )
    return evaluate_rows(run, model, tokenizer, getattr(data, settings.part), settings, reporter)


def evaluate_rows(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Dataset],
    settings: EvaluationRecipe,
    reporter: Reports,
) -> dict[str, Any]:
    """As :func:`evaluate_run`, with the model and tokenizer of ``run.load()`` and the rows of each task."""
    set_seed(run.recipe().training.seed)  # some methods draw noise in evaluation too
    result = evaluate(
        model,
        tokenizer,
        rows,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        generate_rows=settings.generate_rows,
        progress=reporter.update,
    )
    result.write(run.evaluation(settings.part))
    return result.metrics


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
