"""One evaluation as a table on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_FIGURES = {"perplexity": "perplexity", "bleu4": "BLEU-4", "rougeL": "ROUGE-L"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """A row for each task and those for all of them, a column for each figure."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    for title in _FIGURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    # Macro figures of BLEU-4 and ROUGE-L are arithmetic means already; of perplexity it stands beside the headline.
    mean = {"perplexity": metrics["macro"]["perplexity_mean"], "bleu4": None, "rougeL": None}
    rows = {**metrics["tasks"], "macro": metrics["macro"], "arithmetic mean": mean, "pooled": metrics["pooled"]}
    for name, figures in rows.items():
        table.add_row(name, *("-" if figures[key] is None else f"{figures[key]:.3f}" for key in _FIGURES))
    return table
