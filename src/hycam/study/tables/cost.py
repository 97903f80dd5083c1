"""What each method costs (parameters, speed, memory), and its validation loss for the same cost."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.places import (
    Column,
    Line,
    Place,
    Read,
    blocks,
    column,
    need_results,
    of_training,
    spread_note,
    tabulated,
    trained_lines,
)
from hycam.study.tables.scores import MARKS, PPL, notes, score_column
from hycam.study.tables.table import NONE, Entry, Table, need

_TRAINABLE = of_training("trainable_parameters")


class Point(NamedTuple):
    """A validation: its step, its seconds of training, and the mean over tasks of the NLL per token."""

    step: int
    seconds: float
    loss: float


def validations(result: Result) -> list[Point]:
    """The validations of a cell with a finite loss, in order."""
    return [
        Point(line["step"], line["elapsed"], line["eval_loss"])
        for line in result.content["curve"]
        if line.get("eval_loss") is not None
    ]


def lowest(points: list[Point]) -> Point | None:
    return min(points, key=lambda point: point.loss, default=None)


def cost_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The costs of methods, and how soon they are as good as LoRA."""
    need_results(plan)
    found = trained_lines(plan)
    need(found, "This study trains nothing.")
    lora = next((name for name, one in plan.study.methods.items() if one.name == "lora" and not one.config), None)
    columns = [
        column("Trainable parameters", _TRAINABLE, ",.0f", spread=False),
        column("Tokens per second", _per_second, ",.0f"),
        column("Peak memory, GiB", _in("peak_memory_bytes", 2**30), ".2f"),
        column("Saved, MiB", _in("adapter_bytes", 2**20), ",.1f", spread=False),
        column("Training, s", of_training("seconds"), ",.0f"),
    ]
    note = [
        "Tokens per second: training tokens, prompts included, over the seconds of training with its validations. Peak "
        "memory: of the GPU if one was used, else of the whole process. Saved: the adapter's files (the model's, if "
        "the backbone was trained).",
    ]
    if lora:
        columns += [
            _until_as_good(lora, f"Steps to {lora}'s best", lambda point: point.step),
            _until_as_good(lora, f"Seconds to {lora}'s best", lambda point: point.seconds),
        ]
        note.append(
            f"{lora}'s best: the lowest validation loss of its cell of the same fold; counted until the first "
            "validation that is as low, over the folds that reach it."
        )
    environments = [one.content["environment"] for one in plan.results.done]
    names = dict.fromkeys(one["gpu"] or f"{one['cores']} cores of {one['processor']}" for one in environments)
    note += [spread_note(plan), f"Machine{'s' if len(names) > 1 else ''}: {'; '.join(names)}."]
    return tabulated(plan, "cost", "Cost", " ".join(note), columns, blocks(plan, found, columns))


def budget_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The trainable parameters of methods, their difference from the reference's, and the perplexity."""
    need_results(plan)
    reference, found = plan.study.reference, trained_lines(plan)
    others = {line.method for line in found} - {reference}
    need(others and reference in plan.study.methods, f"Budgets are compared between {reference} and another method.")

    def of_backbone(own: Place) -> Entry:
        return _percent(own.mean(_TRAINABLE), own.mean(of_training("total_parameters")), ".2f")

    def against(own: Place) -> Entry:
        mine, theirs = own.mean(_TRAINABLE), own.of(reference).mean(_TRAINABLE)
        if mine is None or theirs is None or own.line.method == reference:
            return NONE
        return _percent(mine - theirs, theirs, "+.2f")

    columns = [
        column("Trainable parameters", _TRAINABLE, ",.0f", spread=False),
        Column("Of the backbone, %", of_backbone),
        Column(f"Against {reference}, %", against),
        score_column(PPL),
    ]
    note = " ".join(notes(plan, "over tasks (and folds)"))
    return tabulated(plan, "budget", "Trainable parameters and perplexity", note, columns, blocks(plan, found, columns))


def wall_time_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The lowest validation loss at the largest time that all methods reached on a fold."""
    need_results(plan)
    found = trained_lines(plan)
    need(len(found) > 1, "Equal wall time needs at least two methods.")
    until = _common_times(plan, found)
    need(until, "No fold has a validation of every method yet.")

    def limit(one: Result) -> float | None:
        return until.get((one.backbone, one.fold, one.seed))

    def reached(one: Result) -> Point | None:
        seconds = limit(one)
        return None if seconds is None else lowest([point for point in validations(one) if point.seconds <= seconds])

    def share(one: Result) -> float | None:
        """The share of its own training within that time, in percent."""
        seconds = limit(one)
        return None if seconds is None else 100 * min(1.0, seconds / validations(one)[-1].seconds)

    def loss(own: Place) -> Entry:
        entry = own.entry(_of(reached, lambda point: point.loss), ".4f")
        is_late = entry == NONE and any(limit(one) is not None for one in own.done)
        return Entry("no validation by then", muted=True) if is_late else entry

    columns = [
        Column("Validation loss", loss, lower=True),
        column("At step", _of(reached, lambda point: point.step), ",.0f"),
        column("Of its training, %", share, ".0f"),
    ]
    times = {name: [limit for (where, *_), limit in until.items() if where == name] for name in plan.study.backbones}
    said = "; ".join(f"{name} {fmean(known):,.0f} s" for name, known in times.items() if known)
    note = (
        "The lowest validation loss (mean over tasks of the NLL per response token) up to the largest time at which "
        f"every method still has a validation, taken fold by fold; on average {said}. Validations count into the time. "
        f"{spread_note(plan)} {MARKS}"
    )
    return tabulated(
        plan, "wall_time", "Validation loss at equal wall time", note, columns, blocks(plan, found, columns)
    )


def _per_second(one: Result) -> float | None:
    return one.training["tokens"] / one.training["seconds"] if one.training else None


def _in(name: str, unit: int) -> Read:
    return lambda one: one.training[name] / unit if one.training else None


def _of(reached: Callable[[Result], Point | None], figure: Callable[[Point], float]) -> Read:
    def read(one: Result) -> float | None:
        point = reached(one)
        return None if point is None else figure(point)

    return read


def _until_as_good(lora: str, heading: str, figure: Callable[[Point], float]) -> Column:
    """The cost up to the first validation as low as the lowest of LoRA's cell of the same fold and seed."""

    def entry(own: Place) -> Entry:
        beside = own.of(lora).cells

        def reached(one: Result) -> Point | None:
            other = beside.get((one.fold, one.seed))
            best = lowest(validations(other)) if other else None
            return next((point for point in validations(one) if point.loss <= best.loss), None) if best else None

        found = own.entry(_of(reached, figure), ",.0f")
        return Entry("not reached", muted=True) if found == NONE and beside else found

    return Column(heading, entry)


def _common_times(plan: Plan, found: list[Line]) -> dict[tuple[str, int, int], float]:
    """By backbone, fold and seed that all lines have finished, the time up to which each has a validation.

    On each backbone, only lines with a finished cell count.
    """
    times: dict[tuple[str, int, int], float] = {}
    for backbone in plan.study.backbones:
        of_lines = [cells for line in found if (cells := Place(plan, line, backbone).cells)]
        for at in dict.fromkeys(at for cells in of_lines for at in cells):
            ends = [validations(cells[at])[-1:] for cells in of_lines if at in cells]
            if len(ends) == len(of_lines) and all(ends):
                times[backbone, *at] = min(points[-1].seconds for points in ends)
    return times


def _percent(part: float | None, of: float | None, form: str) -> Entry:
    return NONE if part is None or of is None else Entry(format(100 * part / of, form), 100 * part / of)
