"""One evaluation as a table on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

_FIGURES = {"perplexity": "perplexity", "bleu4": "BLEU-4", "rougeL": "ROUGE-L"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """A row for each task and those for all of them, a column for each figure; below, how the answers were scored."""
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
    """What is counted in the answers, and in which tasks where they differ."""
    tasks: dict[str, list[str]] = {}
    for name, figures in metrics["tasks"].items():
        if signature := figures["bleu_signature"]:
            tasks.setdefault(f"BLEU-4 {signature}, ROUGE-L of {figures['rouge_tokens']} words", []).append(name)
    return "\n".join(how if len(tasks) == 1 else f"{', '.join(names)}: {how}" for how, names in tasks.items())
