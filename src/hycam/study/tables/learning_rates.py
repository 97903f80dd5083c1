"""The trials of a sweep: the validation loss of each method at each learning rate."""

from __future__ import annotations

from math import isfinite

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.sweep import RATE, family_of
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import BLANK, Line, is_trained, need, place, spread_note
from hycam.study.tables.scores import PPL
from hycam.study.tables.table import Entry, Table, marked


def learning_rates(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x learning rates, with the best of each method and how many trials it had."""
    study = plan.study
    need(study.sweep.learning_rates, _elsewhere(plan))
    need(
        plan.results.done or plan.results.failed, "No trial of this sweep has finished yet: run it with `hycam study`."
    )
    rates = sorted({cell.settings[RATE] for cell in plan.cells if RATE in cell.settings})
    rows = []
    for backbone in study.backbones:
        for family in dict.fromkeys(family_of(study, name) for name in study.methods if is_trained(plan, name)):
            labels = [name for name in study.methods if family_of(study, name) == family]
            rows += _family(plan, backbone, labels, rates)
    columns = [*beginning(plan), *[f"{rate:g}" for rate in rates], "Best", "Trials"]
    begin = len(beginning(plan))
    note = (
        "Validation loss: the mean over tasks of the NLL per response token. Bold: the best of a method's trials, "
        "underlined: the second; variants of a method are trials of it, and so is what diverged. A best value at an "
        f"edge of what was tried extends the grid, up to {study.sweep.most_trials} rates. {spread_note(plan)}"
    )
    groups = [("", begin), ("Learning rate", len(rates)), ("", 2)]
    return Table("learning_rates", "Learning rates: validation loss of every trial", note, columns, rows, groups)


def _elsewhere(plan: Plan) -> str:
    source = plan.study.learning_rates_from
    where = f" Its learning rates are from {source}: report on that one." if source else ""
    return f"This study is no sweep of learning rates.{where}"


def _family(plan: Plan, backbone: str, labels: list[str], rates: list[float]) -> list[list[Entry]]:
    """The lines of a method and its variants, whose trials compete with one another."""
    entries = [[_trial(plan, label, backbone, rate) for rate in rates] for label in labels]
    flat = iter(marked([[entry] for line in entries for entry in line], [True]))
    best = plan.best.get((backbone, family_of(plan.study, labels[0])))
    rows = []
    for label in labels:
        row = [*headed(plan, backbone, label), *[next(flat)[0] for _ in rates]]
        if best is not None and best.label == label:
            edge = ", at an edge" if best.at_edge else ""
            found = (
                Entry(f"{best.rate:g}{edge}", best.rate) if isfinite(best.nll) else Entry("all diverged", muted=True)
            )
            row += [found, Entry(str(best.trials), best.trials)]
        else:
            row += [BLANK, BLANK]
        rows.append(row)
    return rows


def _trial(plan: Plan, label: str, backbone: str, rate: float) -> Entry:
    """Blank where the rate was not tried with this method."""
    own = place(plan, Line(label, {RATE: rate}), backbone)
    return own.entry(PPL.read, form=".4f") if own.planned else BLANK
