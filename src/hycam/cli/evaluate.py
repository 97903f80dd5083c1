"""``hycam evaluate RUN``: perplexity, BLEU-4 and ROUGE-L per task, macro and pooled; or its retention."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hycam.cli.arguments import parse
from hycam.cli.importing import importing
from hycam.console import Reporter, plain_console, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import EvaluationRecipe

if TYPE_CHECKING:
    from hycam.training.run import Run

_FIGURES = {"perplexity": "perplexity", "bleu4": "BLEU-4", "rougeL": "ROUGE-L"}
_KL = {"lambada": "passages of LAMBADA", "replies": "of the base's own replies"}


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
    folder = Path(parse(parser, arguments).run)
    with importing():
        from hycam.machine import share_cores
        from hycam.training.evaluate import evaluate_run
        from hycam.training.run import Run
    run = Run(folder)
    parser.set_defaults(asdict(run.recipe().evaluation))
    chosen = parse(parser, arguments)
    settings = EvaluationRecipe(**{name: chosen[name] for name in asdict(EvaluationRecipe())})
    retention = RetentionRecipe(**chosen.retention)
    quiet_libraries()
    share_cores()
    if retention.is_measured:
        _retention(run, settings, retention, chosen.json)
        return
    if retention != RetentionRecipe():
        raise UsageError("No retention is requested: set --retention.tasks, .kl_texts or .kl_replies too.")
    with Reporter() as reporter:
        metrics = evaluate_run(run, settings, reporter)
    if chosen.json:
        print(json.dumps(metrics, indent=2))
    else:
        plain_console().print(_metrics_table(metrics))
        print(f"Predictions: {run.evaluation(settings.part)}")


def _retention(run: Run, settings: EvaluationRecipe, retention: RetentionRecipe, as_json: bool) -> None:
    from hycam.files import write_whole
    from hycam.training.evaluate import measure_retention

    with Reporter() as reporter:
        found: dict[str, Any] = measure_retention(run, *run.load(settings.config), retention, reporter)
    if not (found["tasks"] or found["kl"]):
        reasons = "; ".join(f"{name} ({reason})" for name, reason in found["excluded"].items())
        raise HycamError(f"No task of retention is left: {reasons}. Name other tasks, or measure KL.")
    path = run.folder / "evaluation" / "retention.json"
    write_whole(path, json.dumps(found) + "\n")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print_retention(found, plain_console())
        print(f"Row by row: {path}")


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    """A row for each task and aggregate, a column for each figure; below, how the answers were scored."""
    table = Table(box=None, padding=(0, 2, 0, 0), caption=Text(_how(metrics)), caption_justify="left")
    table.add_column("task", no_wrap=True)
    for title in _FIGURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    # Macro figures of BLEU-4 and ROUGE-L are arithmetic means already; of perplexity it stands beside the headline.
    mean = {"perplexity": metrics["macro"]["perplexity_mean"], "bleu4": None, "rougeL": None}
    rows = {**metrics["tasks"], "macro": metrics["macro"], "arithmetic mean": mean, "pooled": metrics["pooled"]}
    for name, figures in rows.items():
        table.add_row(name, *("-" if figures[key] is None else f"{figures[key]:.3f}" for key in _FIGURES))
    return table


def _how(metrics: Mapping[str, Any]) -> str:
    """What is counted in the answers, by task where the tasks differ."""
    tasks: dict[str, list[str]] = {}
    for name, figures in metrics["tasks"].items():
        if signature := figures["bleu_signature"]:
            tasks.setdefault(f"BLEU-4 {signature}, ROUGE-L of {figures['rouge_tokens']} words", []).append(name)
    return "\n".join(how if len(tasks) == 1 else f"{', '.join(names)}: {how}" for how, names in tasks.items())


def _print_retention(found: Mapping[str, Any], console: Console) -> None:
    """Prints what :func:`hycam.evaluation.retention.measure.measure` gave."""
    if found["tasks"]:
        console.print(_retention_table(found["tasks"]))
        console.print(
            "Bits per byte of the right continuation: lower is better. Difference: mean over rows; above 0: worse.\n"
        )
    for name, kl in found["kl"].items():
        per_token = f"{kl['mean']:.4g} nats per token ({kl['tokens']:,} tokens)"
        console.print(f"KL(base || adapted) on {kl['texts']} {_KL[name]}: {per_token}")
    for name, reason in found["excluded"].items():
        console.print(f"{name} is skipped: {reason}.")


def _retention_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    for column in ("rows", "bits/byte", "base", "difference", "accuracy", "base"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in tasks.items():
        table.add_row(
            name,
            f"{figures['rows']:,}",
            *(f"{figures[key]:.4f}" for key in ("bits_per_byte", "base_bits_per_byte")),
            f"{figures['difference']:+.4f}",
            *("-" if figures[key] is None else f"{figures[key]:.3f}" for key in ("accuracy", "base_accuracy")),
        )
    return table
