"""The cells of one method on one backbone, over folds and seeds, and tables with a row for each such place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np

from hycam.study.cells import Cell, told
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.significance import FEWEST_ROWS, MACRO, Bootstrap, Scored, pooled, row_bootstrap
from hycam.study.tables.table import NONE, Entry, Table, marked, need
from hycam.training.run import BASE

Read = Callable[[Result], float | None]
"""Reads a figure of a cell; None if it has none."""


@dataclass(frozen=True)
class Line:
    """A method with its varied settings: a line of a table."""

    method: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join([self.method, *(told(key, value) for key, value in self.settings.items())])


@dataclass(frozen=True)
class Place:
    """The cells of one line on one backbone, trained on one task or (None) on all of them."""

    plan: Plan
    line: Line
    backbone: str
    task: str | None = None

    @cached_property
    def planned(self) -> list[Cell]:
        wanted = (self.line.method, self.line.settings, self.backbone, self.task)
        return [one for one in self.plan.cells if (one.method, one.settings, one.backbone, one.task) == wanted]

    @cached_property
    def done(self) -> list[Result]:
        return self._own(self.plan.results.done)

    @cached_property
    def failed(self) -> list[Result]:
        return self._own(self.plan.results.failed)

    def _own(self, results: Sequence[Result]) -> list[Result]:
        identities = {cell.identity for cell in self.planned}
        return [one for one in results if one.identity in identities]

    def of(self, method: str) -> Place:
        """The cells of another method with the same settings, on the same backbone."""
        return replace(self, line=Line(method, self.line.settings))

    def alone(self, task: str) -> Place:
        """The same, trained on this task alone."""
        return replace(self, task=task)

    @property
    def is_whole(self) -> bool:
        return len(self.done) == len(self.planned) > 0

    @property
    def cells(self) -> dict[tuple[int, int], Result]:
        """The finished cells by fold and seed."""
        return {(one.fold, one.seed): one for one in self.done}

    def values(self, read: Read) -> list[float]:
        """The figure of each fold, averaged over its seeds; with a single fold, the figure of each seed."""
        by_unit: dict[int, list[float]] = {}
        for one in self.done:
            value = read(one)
            if value is not None:
                by_unit.setdefault(one.fold if self._over_folds else one.seed, []).append(value)
        return [fmean(found) for found in by_unit.values()]

    def mean(self, read: Read) -> float | None:
        """The mean over folds; None if a planned cell lacks the figure."""
        return fmean(self.values(read)) if self.is_whole and None not in map(read, self.done) else None

    def entry(
        self,
        read: Read,
        form: str = ".3f",
        shown: Callable[[float], float] = float,
        spread: bool = True,
        muted: bool = False,
    ) -> Entry:
        """``shown`` of the mean over folds, ± the standard deviation of ``shown`` of each fold.

        If cells are missing, the text says how many and the entry has no value.

        Args:
            read: reads the figure of a cell.
            form: the number format.
            shown: maps the figure to what is printed, such as ``exp`` for a perplexity from its NLL.
            spread: whether to print the standard deviation.
            muted: of the entry.
        """
        values = self.values(read)
        if not values:
            return NONE if self.done else Entry(self._missing, muted=True)
        mean = shown(fmean(values))
        text = format(mean, form)
        if spread and len(values) > 1:
            with np.errstate(over="ignore"):  # the square of a perplexity beyond 1e154 is infinite
                text += f" ± {np.std(list(map(shown, values)), ddof=1):{form.lstrip('+')}}"
        known = sum(read(one) is not None for one in self.done)
        if known == len(self.planned):
            return Entry(text, mean, muted=muted)
        return Entry(f"{text} ({known} of {len(self.planned)} {self._units})", muted=muted)

    @property
    def _units(self) -> str:
        if len({cell.seed for cell in self.planned}) == 1:
            return "replicates" if any(cell.recipe.data.split.by == "disjoint" for cell in self.planned) else "folds"
        return "cells" if self._over_folds else "seeds"

    @property
    def _over_folds(self) -> bool:
        return len({cell.fold for cell in self.planned}) > 1

    @property
    def _missing(self) -> str:
        states = [one.state for one in self.failed]
        return "diverged" if "diverged" in states else "failed" if states else "not run"


def lines(plan: Plan, wanted: Callable[[str], bool] = lambda method: True) -> list[Line]:
    """The lines of a study in grid order, for the methods whose label is wanted."""
    found: list[Line] = []
    for label in filter(wanted, plan.study.methods):
        for cell in plan.cells:
            line = Line(label, cell.settings)
            if cell.method == label and cell.task is None and line not in found:
                found.append(line)
    return found


def trained_lines(plan: Plan) -> list[Line]:
    """The lines of all methods but the unadapted backbone."""
    return lines(plan, lambda label: plan.study.methods[label].name != BASE)


@dataclass(frozen=True)
class Column:
    """A column of a table with a row for each line and backbone.

    Attributes:
        heading: its own.
        entry: makes the entry of a place.
        lower: whether the lowest or the highest is best, or (None) nothing is marked.
        group: the heading shared with its neighbours.
    """

    heading: str
    entry: Callable[[Place], Entry]
    lower: bool | None = None
    group: str = ""


def column(heading: str, read: Read, form: str = ".3f", spread: bool = True, lower: bool | None = None,
           group: str = "") -> Column:  # fmt: skip
    """A column with a figure of the cells; see :meth:`Place.entry`."""
    return Column(heading, lambda own: own.entry(read, form, spread=spread), lower, group)


def block(plan: Plan, backbone: str, found: Sequence[Line], columns: Sequence[Column]) -> list[list[Entry]]:
    """The rows of these lines on a backbone, with the best of each column marked."""
    places = [Place(plan, line, backbone) for line in found]
    rows = [[*headed(plan, backbone, own.line.label), *(one.entry(own) for one in columns)] for own in places]
    return marked(rows, [*[None] * len(headed(plan, "", "")), *(one.lower for one in columns)])


def blocks(plan: Plan, found: Sequence[Line], columns: Sequence[Column]) -> list[list[Entry]]:
    """:func:`block` of every backbone."""
    return [row for backbone in plan.study.backbones for row in block(plan, backbone, found, columns)]


def headed(plan: Plan, backbone: str, label: str) -> list[Entry]:
    """The first entries of a row, with the backbone's label if the study has several."""
    return [Entry(backbone), Entry(label)] if len(plan.study.backbones) > 1 else [Entry(label)]


def tabulated(plan: Plan, name: str, title: str, note: str, columns: Sequence[Column],
              rows: list[list[Entry]], of_line: str = "Method") -> Table:  # fmt: skip
    """A table of rows that :func:`block` made."""
    begin = [entry.text for entry in headed(plan, "Backbone", of_line)]
    over = [*[""] * len(begin), *(one.group for one in columns)]
    groups = [(text, len(list(found))) for text, found in groupby(over)] if any(over) else []
    return Table(name, title, note, [*begin, *(one.heading for one in columns)], rows, groups)


def of_training(name: str) -> Read:
    """Reads a figure of the training; the unadapted backbone has none."""
    return lambda one: one.training[name] if one.training else None


def need_results(plan: Plan) -> None:
    """Raises NotRun for a sweep, whose results only serve to choose a learning rate, and without a finished cell."""
    need(not plan.study.sweep.learning_rates, "This study is a sweep of learning rates: see the table of those.")
    need(plan.results.done, "No cell of this study has finished yet: run it with `hycam study`.")


def spread_note(plan: Plan) -> str:
    """Explains ± in this study, and names the failed and diverged cells."""
    lost: dict[str, int] = {}
    for one in plan.results.failed:
        alone = f" on {one.task} alone" if one.task else ""
        words = f"{Line(one.method, one.settings).label}{alone} on {one.backbone} {one.state}"
        lost[words] = lost.get(words, 0) + 1
    said = [f"{words}{f' in {number} cells' if number > 1 else ''}" for words, number in lost.items()]
    return _spread(plan) + (f" {'; '.join(said)}." if said else "")


def _spread(plan: Plan) -> str:
    folds, seeds = len(plan.study.folds), len(plan.study.seeds)
    if folds == seeds == 1:
        return "One fold and one seed: no spread is known."
    if folds == 1:
        return f"Mean over {seeds} seeds, ± the standard deviation between them."
    units = "replicates" if plan.study.data.split.by == "disjoint" else "folds"
    averaged = f", each the mean of its {seeds} seeds" if seeds > 1 else ""
    if plan.study.seed_per_fold:
        averaged = ", each with a seed of its own"
    return f"Mean over {folds} {units}{averaged}, ± the standard deviation between them."


def over_rows(tasks: Mapping[str, Sequence[Scored]]) -> Bootstrap | None:
    """The bootstrap of the mean over tasks of ``sum(difference) / sum(weight)``, over each task's rows in these cells.

    None if a task has too few rows, or there is no task.
    """
    found = {name: pooled(cells) for name, cells in tasks.items()}
    if not found or any(len(differences) < FEWEST_ROWS for differences, _ in found.values()):
        return None
    return row_bootstrap(found)[MACRO]


def interval(found: Bootstrap | None, form: str, shown: Callable[[float], float] = float) -> Entry:
    """``[low, high]``, which has no value to sort or mark by."""
    return NONE if found is None else Entry(f"[{shown(found.low):{form}}, {shown(found.high):{form}}]")
