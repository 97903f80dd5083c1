"""What a comparison shows at its end: the table, an answer of each method to one prompt a task, the loss curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hycam.evaluation.result import PREDICTIONS_FILE
from hycam.training.recipe import Comparison
from hycam.training.run import Run

_MOST_COLUMNS = 6
_MOST_CURVES = 10
_FIGURES = {"perplexity": "perplexity", "bleu4": "BLEU-4", "rougeL": "ROUGE-L"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """One evaluation: a row for each task and those for all of them, a column for each figure."""
    table = _table("task", *_FIGURES.values())
    for name, figures in _rows(metrics).items():
        table.add_row(name, *(_number(figures[key]) for key in _FIGURES))
    return table


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several evaluations: a block of rows for each figure and a column for each method, or the other way round.

    Columns for more methods than a terminal has room for would be cut; then each method is a row.
    """
    if len(results) > _MOST_COLUMNS:
        return _by_method(results)
    table = _table("", *results)
    for key, title in _FIGURES.items():
        table.add_row(Text(title, style="bold"))
        for name in _rows(next(iter(results.values()))):
            values = [_rows(metrics)[name][key] for metrics in results.values()]
            if any(value is not None for value in values):
                table.add_row(f"  {name}", *map(_number, values))
    return table


def _by_method(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each method: the perplexity of every task and over them, and where there are answers their scores."""
    tasks = list(next(iter(results.values()))["tasks"])
    scored = [key for key in ("bleu4", "rougeL") if any(r["macro"][key] is not None for r in results.values())]
    table = _table("perplexity", *tasks, "macro", *(_FIGURES[key] for key in scored))
    for label, metrics in results.items():
        figures = [metrics["tasks"][task]["perplexity"] for task in tasks]
        figures += [metrics["macro"][key] for key in ("perplexity", *scored)]
        table.add_row(label, *map(_number, figures))
    return table


def _rows(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    # Macro figures of BLEU-4 and ROUGE-L are arithmetic means already; of perplexity it stands beside the headline.
    mean = {"perplexity": metrics["macro"]["perplexity_mean"], "bleu4": None, "rougeL": None}
    return {**metrics["tasks"], "macro": metrics["macro"], "arithmetic mean": mean, "pooled": metrics["pooled"]}


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def cost_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each method took."""
    table = _table("method", "trainable", "learning rate", "tokens", "training s", "in all s", "peak GiB")
    for label, result in results.items():
        rate = result["learning_rate"]
        table.add_row(
            label,
            f"{result['trainable_parameters']:,}",
            "-" if rate is None else f"{rate:g}",
            f"{result['training_tokens']:,}",
            f"{result['training_seconds']:.0f}",
            f"{result['seconds']:.0f}",
            f"{result['peak_memory_bytes'] / 2**30:.2f}",
        )
    return table


def sample_answers(folder: Path, labels: list[str], part: str) -> Group:
    """One prompt a task that every method answered, with the reference and each answer."""
    shown: dict[str, dict[str, Any]] = {}
    for label in labels:
        path = Run(folder / label).evaluation(part) / PREDICTIONS_FILE
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["prediction"] is None:
                continue
            seen = shown.setdefault(entry["task"], {"row": entry["row"], "entry": entry, "answers": {}})
            if entry["row"] == seen["row"]:
                seen["answers"][label] = entry["prediction"]
    parts = []
    for task, seen in shown.items():
        parts.append(Text(f"\n{task}, {seen['row']}", style="bold"))
        asked = seen["entry"]["prompt"].removesuffix("### Response:\n").rpartition("### Instruction:\n")[2]
        for name, text in (("asked", asked), ("reference", seen["entry"]["reference"]), *seen["answers"].items()):
            parts.append(Text.assemble((f"{name}: ", "cyan"), _short(text)))
    return Group(*parts)


def _short(text: str, longest: int = 240) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else f"{flat[:longest]} ..."


def print_report(comparison: Comparison, results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Prints the tables and, where answers were generated, one sample a task."""
    settings = comparison.evaluation
    if settings.generate_rows != 0:
        console.print(sample_answers(Path(comparison.output), list(results), settings.part))
    first = next(iter(results.values()))
    rows = sum(task["rows"] for task in first["tasks"].values())
    answered = sum(task["generated_rows"] for task in first["tasks"].values())
    console.print(
        f"\n{settings.part} part, fold {comparison.data.fold}: perplexity of the responses of {rows} rows, BLEU-4 and "
        f"ROUGE-L of {answered} greedy answers of at most {settings.max_new_tokens} tokens. macro: every task weighs "
        "the same (perplexity: exp of the mean NLL); pooled: every token, or row, weighs the same.\n",
        highlight=False,
    )
    console.print(comparison_table(results))
    console.print()
    console.print(cost_table(results))
    console.print()


def loss_curves(folder: Path, labels: list[str]) -> Path | None:
    """Draws training and validation loss over the optimizer steps of every trained method into ``loss.png``.

    Returns:
        the figure's path, or None where nothing was trained, there are more methods than colours to tell them apart, or
        matplotlib (the ``plots`` extra) is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = {label: _logged(folder / label / "metrics.jsonl") for label in labels}
    lines = {label: logged for label, logged in lines.items() if logged}
    if not 0 < len(lines) <= _MOST_CURVES:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for index, (label, logged) in enumerate(lines.items()):
        training = [(line["step"], line["loss"]) for line in logged if "loss" in line]
        validation = [(line["step"], line["eval_loss"]) for line in logged if "eval_loss" in line]
        color = f"C{index}"
        axes.plot(*zip(*training, strict=True), color=color, alpha=0.45, label=f"{label}, training")
        axes.plot(*zip(*validation, strict=True), color=color, marker="o", label=f"{label}, validation")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per response token (nats)")
    axes.set_title("Training: micro-batches, balance term included. Validation: mean over tasks.", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path = folder / "loss.png"
    figure.savefig(path, dpi=150)
    return path


def _logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
