"""Equal budget: how many parameters each method trains, how far that is from the reference's, and what it gives."""

from __future__ import annotations

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import (
    NONE,
    Line,
    is_trained,
    lines,
    need,
    need_results,
    of_training,
    place,
)
from hycam.study.tables.scores import PPL, notes
from hycam.study.tables.table import Entry, Table, marked

_TRAINABLE = of_training("trainable_parameters")


def budget(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods by their number of trainable parameters."""
    need_results(plan)
    reference = plan.study.reference
    found = lines(plan, lambda method: is_trained(plan, method))
    others = {line.method for line in found} - {reference}
    need(others and reference in plan.study.methods, f"Budgets are compared between {reference} and another method.")
    begin, rows = beginning(plan), []
    for backbone in plan.study.backbones:
        block = [
            [
                *headed(plan, backbone, line.label),
                place(plan, line, backbone).entry(_TRAINABLE, form=",.0f", spread=False),
                _percent(_trainable(plan, line, backbone), _total(plan, line, backbone), ".2f"),
                _deviation(plan, line, backbone),
                PPL.entry(place(plan, line, backbone)),
            ]
            for line in found
        ]
        rows += marked(block, [*[None] * (len(begin) + 3), True])
    columns = [*begin, "Trainable parameters", "Of the backbone, %", f"Against {reference}, %", "PPL"]
    note = " ".join(notes(plan, "over tasks (and folds)"))
    return Table("budget", "Trainable parameters and perplexity", note, columns, rows)


def _trainable(plan: Plan, line: Line, backbone: str) -> float | None:
    return place(plan, line, backbone).mean(_TRAINABLE)


def _total(plan: Plan, line: Line, backbone: str) -> float | None:
    return place(plan, line, backbone).mean(of_training("total_parameters"))


def _deviation(plan: Plan, line: Line, backbone: str) -> Entry:
    """How many more are trained than by the reference in the same settings."""
    if line.method == plan.study.reference:
        return NONE
    mine = _trainable(plan, line, backbone)
    theirs = _trainable(plan, Line(plan.study.reference, line.settings), backbone)
    return _percent(mine - theirs if mine is not None and theirs is not None else None, theirs, "+.2f")


def _percent(part: float | None, of: float | None, form: str) -> Entry:
    if part is None or of is None:
        return NONE
    return Entry(format(100 * part / of, form), 100 * part / of)
