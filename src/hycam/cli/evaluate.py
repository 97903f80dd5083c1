"""``hycam evaluate RUN``: perplexity, BLEU-4 and ROUGE-L per task, macro and pooled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from hycam.cli.arguments import parse
from hycam.console import Reporter, quiet_libraries
from hycam.training.evaluate import evaluate_run
from hycam.training.recipe import EvaluationRecipe
from hycam.training.report import metrics_table
from hycam.training.run import Run


def main(arguments: Sequence[str]) -> None:
    """Evaluates a run folder; what is not given is as the run's own recipe has it."""
    parser = ArgumentParser(
        prog="hycam evaluate", exit_on_error=False,
        description="Perplexity, BLEU-4 and ROUGE-L of a run, per task. What is not given is as in the run's recipe.",
    )  # fmt: skip
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_class_arguments(EvaluationRecipe, None)
    run = Run(Path(parse(parser, arguments).run))
    parser.set_defaults(asdict(run.recipe().evaluation))
    chosen = parse(parser, arguments)
    settings = EvaluationRecipe(**{name: chosen[name] for name in asdict(EvaluationRecipe())})
    quiet_libraries()
    with Reporter() as reporter:
        metrics = evaluate_run(run, settings, reporter)
    if chosen.json:
        print(json.dumps(metrics, indent=2))
    else:
        Console().print(metrics_table(metrics))
        print(f"Predictions: {run.evaluation(settings.part)}")
