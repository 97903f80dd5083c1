"""``hycam evaluate RUN``: perplexity, BLEU-4 and ROUGE-L per task, macro and pooled; or its retention."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from hycam.cli.arguments import parse
from hycam.console import Reporter, plain_console, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.evaluation.table import metrics_table, print_retention
from hycam.files import write_whole
from hycam.training.evaluate import evaluate_run, measure_retention
from hycam.training.recipe import EvaluationRecipe
from hycam.training.run import Run


def main(arguments: Sequence[str]) -> None:
    """Evaluates a run folder; settings that are not given come from the run's own recipe."""
    parser = ArgumentParser(
        prog="hycam evaluate", exit_on_error=False,
        description="Perplexity, BLEU-4 and ROUGE-L of a run, per task. Settings that are not given come from its "
        "recipe. With tasks or texts of retention, it measures what the run has kept of its backbone's abilities.",
    )  # fmt: skip
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_class_arguments(EvaluationRecipe, None)
    parser.add_class_arguments(RetentionRecipe, "retention", skip={"at_validations"})
    run = Run(Path(parse(parser, arguments).run))
    parser.set_defaults(asdict(run.recipe().evaluation))
    chosen = parse(parser, arguments)
    settings = EvaluationRecipe(**{name: chosen[name] for name in asdict(EvaluationRecipe())})
    retention = RetentionRecipe(**chosen.retention)
    quiet_libraries()
    if retention.is_measured:
        _retention(run, settings, retention, chosen.json)
        return
    if retention != RetentionRecipe():
        raise UsageError("No retention is asked for: set --retention.tasks, .kl_texts or .kl_replies too.")
    with Reporter() as reporter:
        metrics = evaluate_run(run, settings, reporter)
    if chosen.json:
        print(json.dumps(metrics, indent=2))
    else:
        plain_console().print(metrics_table(metrics))
        print(f"Predictions: {run.evaluation(settings.part)}")


def _retention(run: Run, settings: EvaluationRecipe, retention: RetentionRecipe, as_json: bool) -> None:
    with Reporter() as reporter:
        found: dict[str, Any] = measure_retention(run, *run.load(settings.config), retention, reporter)
    if not (found["tasks"] or found["kl"]):
        reasons = "; ".join(f"{name} ({reason})" for name, reason in found["excluded"].items())
        raise HycamError(f"No task of retention is left: {reasons}. Name others, or measure KL.")
    path = run.folder / "evaluation" / "retention.json"
    write_whole(path, json.dumps(found) + "\n")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_retention(found, plain_console())
        print(f"Row by row: {path}")
