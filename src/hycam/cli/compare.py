"""``hycam compare RECIPE``: several methods on the same data, one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hycam.console import quiet_libraries
from hycam.training.compare import compare
from hycam.training.parse import parse_recipe
from hycam.training.recipe import Comparison
from hycam.training.report import loss_curves, print_report
from hycam.training.run import Run


def main(arguments: Sequence[str]) -> None:
    """Parses the comparison and its overrides, runs it, and prints the table, sample answers and where things are."""
    comparison = parse_recipe(
        Comparison,
        arguments,
        prog="hycam compare",
        description="Trains and evaluates several methods on the same data.",
    )
    quiet_libraries()
    results = compare(comparison, say=lambda line: print(line, file=sys.stderr, flush=True))
    folder = Path(comparison.output)
    print_report(comparison, results, Console())
    figure = loss_curves(folder, list(results))
    if figure is not None:
        print(f"Loss curves: {figure}")
    print(f"Results: {folder / 'results.json'}")
    for label in results:
        run = Run(folder / label)
        if run.adapter.exists():
            print(f"Adapter of {label}: {run.adapter}")
            print(f'  model = AutoPeftModelForCausalLM.from_pretrained("{run.adapter}")  # after `import hycam`')
        elif run.model.exists():
            print(f"Model of {label}: {run.model}")
