"""What a place in a table is made of: the cells of one method on one backbone, over folds and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from hycam.methods import METHODS
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import Entry, NotRun
from hycam.study.vary import told
from hycam.training.run import BASE

NONE = Entry("–", muted=True)
"""Where a place has no such figure."""

BLANK = Entry("")
"""Where nothing is meant to be."""


@dataclass(frozen=True)
class Line:
    """A method with the varied settings it has in a line of a table."""

    method: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join([self.method, *(told(key, value) for key, value in self.settings.items())])


@dataclass(frozen=True)
class Place:
    """The planned cells of one line on one backbone, and what has become of them."""

    planned: Sequence[Cell]
    done: Sequence[Result]
    failed: Sequence[Result]

    @property
    def is_whole(self) -> bool:
        return len(self.done) == len(self.planned) > 0

    def values(self, figure: Callable[[Result], float | None]) -> list[float]:
        """The figure of every fold that has it, each the mean over its seeds; with one fold, of every seed."""
        by_unit: dict[int, list[float]] = {}
        for one in self.done:
            value = figure(one)
            if value is not None:
                by_unit.setdefault(one.fold if self._over_folds else one.seed, []).append(value)
        return [fmean(found) for found in by_unit.values()]

    def mean(self, figure: Callable[[Result], float | None]) -> float | None:
        """The mean over folds; None where any of the planned cells does not have the figure."""
        known = [figure(one) for one in self.done]
        return fmean(self.values(figure)) if self.is_whole and known and None not in known else None

    def entry(
        self,
        figure: Callable[[Result], float | None],
        shown: Callable[[float], float] = lambda value: value,
        form: str = ".3f",
        spread: bool = True,
        muted: bool = False,
    ) -> Entry:
        """``shown`` of the mean over folds, ± the standard deviation of what each of them shows.

        Cells that are not there are said in the text, and then there is no value.

        Args:
            figure: of one cell; None where it has none.
            shown: from the figure to what is printed, such as ``exp`` for a perplexity from its NLL.
            form: how numbers are printed.
            spread: whether the standard deviation is printed; a number of parameters has none.
            muted: of the entry.
        """
        values = self.values(figure)
        if not values:
            return NONE if self.done else Entry(self._missing, muted=True)
        mean = shown(fmean(values))
        text = format(mean, form)
        if spread and len(values) > 1:
            with np.errstate(over="ignore"):  # perplexities beyond 1e154, whose squares are no numbers
                text += f" ± {np.std(list(map(shown, values)), ddof=1):{form.lstrip('+')}}"
        known = sum(figure(one) is not None for one in self.done)
        if known == len(self.planned):
            return Entry(text, mean, muted=muted)
        return Entry(f"{text} ({known} of {len(self.planned)} {self.units})", muted=muted)

    @property
    def units(self) -> str:
        """What the planned cells are."""
        seeds = {cell.seed for cell in self.planned}
        if len(seeds) == 1:
            is_disjoint = any(cell.recipe.data.split.by == "disjoint" for cell in self.planned)
            return "replicates" if is_disjoint else "folds"
        return "cells" if self._over_folds else "seeds"

    @property
    def _over_folds(self) -> bool:
        return len({cell.fold for cell in self.planned}) > 1

    @property
    def _missing(self) -> str:
        states = [one.state for one in self.failed]
        return "diverged" if "diverged" in states else "failed" if states else "not run"


def lines(plan: Plan, wanted: Callable[[str], bool] = lambda method: True) -> list[Line]:
    """The lines of a study in the order of the grid, of those methods whose label is wanted."""
    found = []
    for label in plan.study.methods:
        for cell in plan.cells:
            line = Line(label, cell.settings)
            if cell.method == label and wanted(label) and cell.task is None and line not in found:
                found.append(line)
    return found


def place(plan: Plan, line: Line, backbone: str, task: str | None = None) -> Place:
    """The cells of a line on a backbone, trained on one task or (None) on all of them."""
    planned = [
        cell for cell in plan.cells
        if (cell.method, cell.settings, cell.backbone, cell.task) == (line.method, line.settings, backbone, task)
    ]  # fmt: skip
    own = {cell.identity for cell in planned}
    return Place(
        planned,
        [one for one in plan.results.done if one.identity in own],
        [one for one in plan.results.failed if one.identity in own],
    )


def of_training(name: str) -> Callable[[Result], float | None]:
    """Reads a figure of the training; the backbone as it is has none."""
    return lambda one: one.training[name] if one.training else None


def is_trained(plan: Plan, label: str) -> bool:
    return plan.study.methods[label].name != BASE


def is_peft_baseline(plan: Plan, label: str) -> bool:
    """Whether a method is an adapter other than HyCAM and its variants."""
    name = plan.study.methods[label].name
    return name != BASE and not is_hycam(plan, label) and not (name in METHODS and METHODS[name].trains_backbone)


def is_hycam(plan: Plan, label: str) -> bool:
    """Whether a method is HyCAM or one of its variants."""
    name = plan.study.methods[label].name
    return name == "hycam" or name.startswith("hycam-")


def need(condition: Any, reason: str) -> None:
    """Raises NotRun unless there is what a table needs."""
    if not condition:
        raise NotRun(reason)


def need_results(plan: Plan) -> None:
    """Raises NotRun for a sweep, whose numbers are for choosing a learning rate alone, and without a finished cell."""
    need(not plan.study.sweep.learning_rates, "This study is a sweep of learning rates: see the table of those.")
    need(plan.results.done, "No cell of this study has finished yet: run it with `hycam study`.")


def spread_note(plan: Plan) -> str:
    """What ± is in this study, and which cells failed or diverged."""
    lost: dict[str, int] = {}
    for one in plan.results.failed:
        alone = f" on {one.task} alone" if one.task else ""
        words = f"{Line(one.method, one.settings).label}{alone} on {one.backbone} {one.state}"
        lost[words] = lost.get(words, 0) + 1
    said = [f"{words}{f' in {number} cells' if number > 1 else ''}" for words, number in lost.items()]
    return _spread(plan) + (f" {'; '.join(said)}." if said else "")


def _spread(plan: Plan) -> str:
    several = [name for name, values in (("folds", plan.study.folds), ("seeds", plan.study.seeds)) if len(values) > 1]
    if not several:
        return "One fold and one seed: no spread is known."
    over = {"folds": "replicates" if plan.study.data.split.by == "disjoint" else "folds"}.get(several[0], several[0])
    seeds = f", each the mean of its {len(plan.study.seeds)} seeds" if len(several) > 1 else ""
    number = len(getattr(plan.study, several[0]))
    return f"Mean over {number} {over}{seeds}, ± the standard deviation between them."
