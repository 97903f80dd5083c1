"""Retention: what an adapted backbone has lost of what it could do before, and how far it has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import BLANK, NONE, Line, Place, is_trained, lines, need, place, spread_note
from hycam.study.tables.over_rows import Scored, interval, over_rows
from hycam.study.tables.scores import MARKS, PPL
from hycam.study.tables.table import Entry, Table, marked

MEAN = "Mean Δ"
_TEXTS = {"lambada": "KL, LAMBADA", "replies": "KL, replies"}

_EXPLAINED = (
    "Over rows: 95 % interval of the mean Δ if other rows had been scored, with the same adapters.",
    "{0} minus it: difference of the mean Δ on the same rows, with its interval; below 0 where {0} forgets less.",
)

Lost = dict[str, dict[str, float]]
"""Bits per byte that each row costs more than before, by task and row."""

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
    columns, begin, rows, reference = _columns(measured), beginning(plan), [], plan.study.reference
    # After the mean over tasks, where there are such.
    has_reference = reference in {one.method for one in measured}
    of_rows = ["over rows", *([f"{reference} minus it"] if has_reference else [])] if columns[0].heading == MEAN else []
    directions = [PPL.lower, *_with([column.lower for column in columns], [None] * len(of_rows))]
    for backbone in plan.study.backbones:
        of_backbone = [one for one in measured if one.backbone == backbone]
        if of_backbone:
            own = _with([_before(column, of_backbone[0]) for column in columns], [BLANK] * len(of_rows))
            rows.append([*headed(plan, backbone, "Backbone as it is"), BLANK, *own])
        block = []
        for line in lines(plan, lambda method: is_trained(plan, method)):
            of_line, other = place(plan, line, backbone), place(plan, Line(reference, line.settings), backbone)
            tested = [_interval(of_line), _against(other, of_line)][: len(of_rows)]
            entries = [of_line.entry(column.read, form=column.form) for column in columns]
            block.append([*headed(plan, backbone, line.label), PPL.entry(of_line), *_with(entries, tested)])
        rows += marked(block, [*[None] * len(begin), *directions])
    note = (
        "Δ: bits per byte of the gold continuation minus the backbone's own, mean of the rows' differences; above 0 is "
        "forgotten. The first line has the backbone's own bits per byte and accuracy. "
        f"{' '.join(_EXPLAINED[at].format(reference) for at in range(len(of_rows)))} KL(base || adapted): nats per "
        "token. PPL: of the tasks that were trained; the smallest step forgets least, so read both. "
        f"{spread_note(plan)} {MARKS}"
    )
    headings = [*begin, PPL.heading, *_with([column.heading for column in columns], of_rows)]
    groups = _with([column.group for column in columns], [""] * len(of_rows))
    over = [(name, len(list(found))) for name, found in groupby(["", *groups])]
    over[0] = ("", len(begin) + over[0][1])
    return Table("retention", "What is kept of earlier abilities", note, headings, rows, over)


def _with(values: Sequence[Any], inserted: Sequence[Any]) -> list[Any]:
    """With what stands after the first."""
    return [*values[:1], *inserted, *values[1:]]


def _interval(line: Place) -> Entry:
    """Of the mean over tasks of the rows' differences from the backbone; where the line is whole."""
    lost = _lost_by_place(line)
    return NONE if lost is None else interval(over_rows(_scored(lost.values())), "+.4f")


def _against(reference: Place, line: Place) -> Entry:
    """The same of the reference's differences minus these, on the same rows; where both are whole."""
    ours, theirs = _lost_by_place(reference), _lost_by_place(line)
    if ours is None or theirs is None or reference == line or _rows_of(ours) != _rows_of(theirs):
        return NONE
    found = over_rows(_scored(
        {task: {row: ours[at][task][row] - lost for row, lost in rows.items()} for task, rows in cell.items()}
        for at, cell in theirs.items()
    ))  # fmt: skip
    return NONE if found is None else Entry(f"{found.mean:+.4f} {interval(found, '+.4f').text}")


def _rows_of(cells: Mapping[tuple[int, int], Lost]) -> dict[tuple[int, int], dict[str, set[str]]]:
    return {at: {task: set(rows) for task, rows in cell.items()} for at, cell in cells.items()}


def _lost_by_place(line: Place) -> dict[tuple[int, int], Lost] | None:
    """By fold and seed; None where a cell is not there or was not measured."""
    found = {(one.fold, one.seed): _lost(one) for one in line.done}
    return found if line.is_whole and all(found.values()) else None


def _lost(one: Result) -> Lost:
    kept = one.content["retention"]
    items = {task: figures["items"] for task, figures in kept["tasks"].items()} if kept else {}
    return {
        task: {
            row: (ours - base) / size
            for row, ours, base, size in zip(own["row"], own["bits"], own["base_bits"], own["bytes"], strict=True)
        }
        for task, own in items.items()
    }


def _scored(cells: Iterable[Lost]) -> dict[str, list[Scored]]:
    """By task what each cell has of it, every row of the same weight."""
    found: dict[str, list[Scored]] = {}
    for cell in cells:
        for task, rows in cell.items():
            own = np.fromiter(rows.values(), dtype=np.float64)
            found.setdefault(task, []).append((list(rows), own, np.ones(len(own))))
    return found


def _columns(measured: Sequence[Result]) -> list[_Column]:
    """Those that some cell has figures for."""
    tasks = list(dict.fromkeys(name for one in measured for name in one.content["retention"]["tasks"]))
    found = [_Column("", MEAN, True, _mean(tasks), "+.4f")] if tasks else []
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
