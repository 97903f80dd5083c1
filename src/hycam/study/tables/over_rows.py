"""Intervals over the rows that were scored: what other rows would have given, with the very same adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hycam.study.significance import FEWEST_ROWS, MACRO, Bootstrap, pooled, row_bootstrap
from hycam.study.tables.over_folds import NONE
from hycam.study.tables.table import Entry

Scored = tuple[Sequence[str], np.ndarray, np.ndarray]
"""Of one cell and task: the rows' identities, their differences, and the weight of each, all ``[rows]``."""


def over_rows(tasks: Mapping[str, Sequence[Scored]]) -> Bootstrap | None:
    """Of the mean over tasks of ``sum(difference) / sum(weight)``, each task's rows drawn from its cells'.

    None where a task has too few rows, or there is no task.
    """
    found = {name: pooled(cells) for name, cells in tasks.items()}
    if not found or any(len(differences) < FEWEST_ROWS for differences, _ in found.values()):
        return None
    return row_bootstrap(found)[MACRO]


def interval(found: Bootstrap | None, form: str) -> Entry:
    """``[low, high]``, which no column is sorted or marked by."""
    return NONE if found is None else Entry(f"[{found.low:{form}}, {found.high:{form}}]")
