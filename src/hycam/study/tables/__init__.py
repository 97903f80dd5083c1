"""The tables of a report, by name: each takes a study and its comparisons, or raises NotRun with the reason."""

from __future__ import annotations

from collections.abc import Callable

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.comparisons import comparisons_table
from hycam.study.tables.cost import budget_table, cost_table, wall_time_table
from hycam.study.tables.data import data_table
from hycam.study.tables.formats import csv, latex, markdown, terminal
from hycam.study.tables.retention import retention_table
from hycam.study.tables.scores import main_table, sizes_table, tasks_table
from hycam.study.tables.table import Entry, NotRun, Table
from hycam.study.tables.variants import ablations_table, interference_table, learning_rates_table

__all__ = ["TABLES", "Entry", "NotRun", "Table", "csv", "latex", "markdown", "terminal"]

TABLES: dict[str, Callable[[Plan, list[Comparison]], Table]] = {
    "data": data_table,
    "main": main_table,
    "sizes": sizes_table,
    "tasks": tasks_table,
    "ablations": ablations_table,
    "budget": budget_table,
    "cost": cost_table,
    "learning_rates": learning_rates_table,
    "retention": retention_table,
    "interference": interference_table,
    "comparisons": comparisons_table,
    "wall_time": wall_time_table,
}
