"""Evaluation of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hycam.console import Reports
from hycam.data.prepare import prepare
from hycam.errors import HycamError
from hycam.evaluation.evaluate import evaluate
from hycam.training.recipe import EvaluationRecipe
from hycam.training.run import Run


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
