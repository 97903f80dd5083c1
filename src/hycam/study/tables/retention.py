"""Retention: what an adapted backbone has forgotten, and how far its predictions have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.significance import Scored
from hycam.study.tables.places import (
    Column,
    Place,
    Read,
    block,
    column,
    headed,
    interval,
    over_rows,
    spread_note,
    tabulated,
    trained_lines,
)
from hycam.study.tables.scores import MARKS, PPL, score_column
from hycam.study.tables.table import BLANK, NONE, Entry, Table, need

_TEXTS = {"lambada": "KL, LAMBADA", "replies": "KL, replies"}


@dataclass(frozen=True)
class _Figure:
    """A figure of retention; ``before`` reads the unadapted backbone's, unless that is 0 by definition."""

    group: str
    heading: str
    lower: bool
    read: Read
    form: str
    before: Read = lambda one: None


def retention_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x untrained tasks: bits per byte above the backbone's, accuracy, and KL(base || adapted).

    The perplexity is beside them, since a method that learns little forgets little.
    """
    measured = [one for one in plan.results.done if one.content["retention"] and one.training]
    need(measured, "No finished cell has measured retention: name tasks in the study's retention part.")
    tasks = list(dict.fromkeys(name for one in measured for name in one.content["retention"]["tasks"]))
    figures, over, explained = _figures(measured, tasks), *_over_rows(plan, measured, tasks)
    shown = [column(one.heading, one.read, one.form, lower=one.lower, group=one.group) for one in figures]
    before_over = 1 if tasks else 0  # the mean over tasks, which the intervals are of
    columns = [score_column(PPL), *shown[:before_over], *over, *shown[before_over:]]
    rows = []
    for backbone in plan.study.backbones:
        of_backbone = [one for one in measured if one.backbone == backbone]
        if of_backbone:  # every cell has the same figures of the unadapted backbone
            own = [_before(one, of_backbone[0]) for one in figures]
            own[before_over:before_over] = [BLANK] * len(over)
            rows.append([*headed(plan, backbone, "Backbone as it is"), BLANK, *own])
        rows += block(plan, backbone, trained_lines(plan), columns)
    note = (
        "Δ: bits per byte of the gold continuation minus the backbone's own, mean of the rows' differences; above 0 is "
        "forgetting. The first line has the backbone's own bits per byte and accuracy. "
        f"{explained} KL(base || adapted): nats per token. PPL: of the trained tasks; a method that learns little "
        f"forgets little, so read both. {spread_note(plan)} {MARKS}"
    )
    return tabulated(plan, "retention", "What is kept of earlier abilities", note, columns, rows)


def _over_rows(plan: Plan, measured: Sequence[Result], tasks: Sequence[str]) -> tuple[list[Column], str]:
    """Columns for the interval of the mean over tasks and the difference from the reference; and their note."""
    if not tasks:
        return [], ""
    reference = plan.study.reference
    over = [Column("over rows", _interval)]
    explained = "Over rows: 95 % interval of the mean Δ if other rows had been scored, with the same adapters."
    if reference in {one.method for one in measured}:
        over.append(Column(f"{reference} minus it", lambda own: _against(own.of(reference), own)))
        explained += (
            f" {reference} minus it: difference of the mean Δ on the same rows, with its interval; below 0 where "
            f"{reference} forgets less."
        )
    return over, explained


def _interval(line: Place) -> Entry:
    """The interval of the mean over tasks of the rows' differences from the backbone, if the line is complete."""
    cells = _lost(line)
    tasks = dict.fromkeys(task for cell in cells.values() for task in cell)
    return interval(
        over_rows({task: [cell[task] for cell in cells.values() if task in cell] for task in tasks}), "+.4f"
    )


def _against(reference: Place, line: Place) -> Entry:
    """The reference's differences minus these on the same rows, if both are complete."""
    ours, theirs = _lost(reference), _lost(line)
    if reference.line == line.line or not ours or ours.keys() != theirs.keys():
        return NONE
    scored: dict[str, list[Scored]] = {}
    for at, cell in theirs.items():
        if {task: own[0] for task, own in cell.items()} != {task: own[0] for task, own in ours[at].items()}:
            return NONE
        for task, (rows, lost, weights) in cell.items():
            scored.setdefault(task, []).append((rows, ours[at][task][1] - lost, weights))
    found = over_rows(scored)
    return NONE if found is None else Entry(f"{found.mean:+.4f} {interval(found, '+.4f').text}")


def _lost(line: Place) -> dict[tuple[int, int], dict[str, Scored]]:
    """By fold and seed, and by task: each row's increase in bits per byte, all rows with the same weight.

    Empty if a cell is missing or was not measured.
    """
    found: dict[tuple[int, int], dict[str, Scored]] = {}
    for at, one in line.cells.items():
        kept = one.content["retention"] or {"tasks": {}}
        for task, figures in kept["tasks"].items():
            own = figures["items"]
            order = np.argsort(own["row"], kind="stable")
            lost = np.subtract(own["bits"], own["base_bits"])[order] / np.asarray(own["bytes"])[order]
            found.setdefault(at, {})[task] = ([own["row"][row] for row in order], lost, np.ones(len(lost)))
    return found if line.is_whole and len(found) == len(line.cells) else {}


def _figures(measured: Sequence[Result], tasks: Sequence[str]) -> list[_Figure]:
    """The figures that some cell has."""
    found = [_Figure("", "Mean Δ", True, _mean(tasks), "+.4f")] if tasks else []
    for name in tasks:
        found.append(_Figure(name, "Δ bits/byte", True, _read("tasks", name, "difference"), "+.4f",
                             _read("tasks", name, "base_bits_per_byte")))  # fmt: skip
        found.append(_Figure(name, "accuracy", False, _read("tasks", name, "accuracy"), ".3f",
                             _read("tasks", name, "base_accuracy")))  # fmt: skip
    found += [_Figure("", heading, True, _read("kl", name, "mean"), ".4f") for name, heading in _TEXTS.items()]
    return [one for one in found if one.heading == "Mean Δ" or any(one.read(cell) is not None for cell in measured)]


def _read(part: str, name: str, figure: str) -> Read:
    def read(one: Result) -> float | None:
        kept = one.content["retention"]
        return kept[part][name][figure] if kept and name in kept[part] else None

    return read


def _mean(tasks: Sequence[str]) -> Read:
    def read(one: Result) -> float | None:
        known = [_read("tasks", name, "difference")(one) for name in tasks]
        return None if None in known else fmean(value for value in known if value is not None)

    return read


def _before(figure: _Figure, one: Result) -> Entry:
    """The unadapted backbone's figure."""
    value = figure.before(one)
    return BLANK if value is None else Entry(format(value, figure.form.lstrip("+")), value, muted=True)
