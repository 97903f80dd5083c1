"""Retention: what an adapted backbone has lost of what it could do before, and how far it has moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import BLANK, is_trained, lines, need, place, spread_note
from hycam.study.tables.scores import MARKS, PPL
from hycam.study.tables.table import Entry, Table, marked

_TEXTS = {"lambada": "KL, LAMBADA", "replies": "KL, replies"}

_Read = Callable[[Result], float | None]


@dataclass(frozen=True)
class _Column:
    """A figure of retention; ``before`` reads what the backbone as it is has, where that is no zero by definition."""

    group: str
    heading: str
    lower: bool
    read: _Read
    form: str
    before: _Read | None = None


def retention(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x tasks that were not trained: bits per byte above the backbone's, and accuracy; and KL(base || adapted).

    A method's perplexity stands beside them, since the smallest step forgets least.
    """
    measured = [one for one in plan.results.done if one.content["retention"] and one.training]
    need(measured, "No finished cell has measured retention: name tasks in the study's retention part.")
    columns, begin, rows = _columns(measured), beginning(plan), []
    directions = [*[None] * len(begin), PPL.lower, *[column.lower for column in columns]]
    for backbone in plan.study.backbones:
        of_backbone = [one for one in measured if one.backbone == backbone]
        if of_backbone:
            own = [_before(column, of_backbone[0]) for column in columns]
            rows.append([*headed(plan, backbone, "Backbone as it is"), BLANK, *own])
        block = []
        for line in lines(plan, lambda method: is_trained(plan, method)):
            of_line = place(plan, line, backbone)
            entries = [of_line.entry(column.read, form=column.form) for column in columns]
            block.append([*headed(plan, backbone, line.label), PPL.entry(of_line), *entries])
        rows += marked(block, directions)
    note = (
        "Δ: bits per byte of the gold continuation minus the backbone's own, mean of the rows' differences; above 0 is "
        "forgotten. The first line has the backbone's own bits per byte and accuracy. KL(base || adapted): nats per "
        "token. PPL: of the tasks that were trained; the smallest step forgets least, so read both. "
        f"{spread_note(plan)} {MARKS}"
    )
    headings = [*begin, PPL.heading, *[column.heading for column in columns]]
    over = [(name, len(list(found))) for name, found in groupby(columns, key=lambda column: column.group)]
    return Table("retention", "What is kept of earlier abilities", note, headings, rows, [("", len(begin) + 1), *over])


def _columns(measured: Sequence[Result]) -> list[_Column]:
    """Those that some cell has figures for."""
    tasks = list(dict.fromkeys(name for one in measured for name in one.content["retention"]["tasks"]))
    found = [_Column("", "Mean Δ", True, _mean(tasks), "+.4f")] if tasks else []
    for name in tasks:
        bits = _of_task(name, "base_bits_per_byte")
        found.append(_Column(name, "Δ bits/byte", True, _of_task(name, "difference"), "+.4f", bits))
        accuracy = _of_task(name, "accuracy")
        if any(accuracy(one) is not None for one in measured):
            found.append(_Column(name, "accuracy", False, accuracy, ".3f", _of_task(name, "base_accuracy")))
    for name, heading in _TEXTS.items():
        if any(_divergence(name)(one) is not None for one in measured):
            found.append(_Column("", heading, True, _divergence(name), ".4f"))
    return found


def _of_task(task: str, figure: str) -> _Read:
    def read(one: Result) -> float | None:
        kept = one.content["retention"]
        return kept["tasks"][task][figure] if kept and task in kept["tasks"] else None

    return read


def _mean(tasks: Sequence[str]) -> _Read:
    def read(one: Result) -> float | None:
        known = [_of_task(name, "difference")(one) for name in tasks]
        return None if None in known else fmean(value for value in known if value is not None)

    return read


def _divergence(name: str) -> _Read:
    def read(one: Result) -> float | None:
        kept = one.content["retention"]
        return kept["kl"][name]["mean"] if kept and name in kept["kl"] else None

    return read


def _before(column: _Column, one: Result) -> Entry:
    """What the backbone as it is has, which is the same beside every cell."""
    value = column.before(one) if column.before else None
    return BLANK if value is None else Entry(format(value, column.form.lstrip("+")), value, muted=True)
