"""The tables of a report, by name: each makes its own from a study's results, or raises NotRun with the reason."""

from __future__ import annotations

from collections.abc import Callable

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables import (
    ablations,
    budget,
    comparisons,
    cost,
    data,
    interference,
    learning_rates,
    overall,
    retention,
    sizes,
    tasks,
    wall_time,
)
from hycam.study.tables.formats import csv, latex, markdown
from hycam.study.tables.table import Entry, NotRun, Table

__all__ = ["TABLES", "Entry", "NotRun", "Table", "csv", "latex", "markdown"]

TABLES: dict[str, Callable[[Plan, list[Comparison]], Table]] = {
    "data": data.data,
    "main": overall.main,
    "sizes": sizes.sizes,
    "tasks": tasks.tasks,
    "ablations": ablations.ablations,
    "budget": budget.budget,
    "cost": cost.cost,
    "learning_rates": learning_rates.learning_rates,
    "retention": retention.retention,
    "interference": interference.interference,
    "comparisons": comparisons.comparisons,
    "wall_time": wall_time.wall_time,
}
