"""Equal wall time: the validation loss of each method when every one has trained equally long."""

from __future__ import annotations

from statistics import fmean

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import NONE, is_trained, lines, need, need_results, place, spread_note
from hycam.study.tables.scores import MARKS
from hycam.study.tables.table import Entry, Table, marked
from hycam.study.tables.timeline import Point, lowest, validations

_Cell = tuple[str, int, int]  # backbone, fold, seed


def wall_time(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The lowest validation loss so far, at the largest time that all methods reached on a fold."""
    need_results(plan)
    found = lines(plan, lambda method: is_trained(plan, method))
    need(len(found) > 1, "Equal wall time is between two methods at least.")
    until = _common_times(plan)
    need(until, "No fold has a validation of every method yet.")

    def reached(one: Result) -> Point | None:
        limit = until.get((one.backbone, one.fold, one.seed))
        return None if limit is None else lowest([point for point in validations(one) if point.seconds <= limit])

    def loss(one: Result) -> float | None:
        point = reached(one)
        return None if point is None else point.loss

    def step(one: Result) -> float | None:
        point = reached(one)
        return None if point is None else point.step

    def share(one: Result) -> float | None:
        """Of its own training, how much is within the time."""
        limit = until.get((one.backbone, one.fold, one.seed))
        return None if limit is None else 100 * min(1.0, limit / validations(one)[-1].seconds)

    begin, rows = beginning(plan), []
    for backbone in plan.study.backbones:
        block = []
        for line in found:
            own = place(plan, line, backbone)
            lowest_loss = own.entry(loss, form=".4f")
            if lowest_loss == NONE and any((one.backbone, one.fold, one.seed) in until for one in own.done):
                lowest_loss = Entry("no validation by then", muted=True)
            entries = [lowest_loss, own.entry(step, form=",.0f"), own.entry(share, form=".0f")]
            block.append([*headed(plan, backbone, line.label), *entries])
        rows += marked(block, [*[None] * len(begin), True, None, None])
    times = {name: [limit for (where, _, _), limit in until.items() if where == name] for name in plan.study.backbones}
    said = "; ".join(f"{name} {fmean(known):,.0f} s" for name, known in times.items() if known)
    note = (
        "The lowest validation loss (mean over tasks of the NLL per response token) up to the largest time at which "
        f"every method still has a validation, taken fold by fold; on average {said}. Validations count into the time. "
        f"{spread_note(plan)} {MARKS}"
    )
    columns = [*begin, "Validation loss", "At step", "Of its training, %"]
    return Table("wall_time", "Validation loss at equal wall time", note, columns, rows)


def _common_times(plan: Plan) -> dict[_Cell, float]:
    """Of each backbone, fold and seed that all lines have finished, the time until which each has a validation.

    A line without any finished cell on a backbone is left out there.
    """
    found = lines(plan, lambda method: is_trained(plan, method))
    times: dict[_Cell, float] = {}
    for backbone in plan.study.backbones:
        of_lines = [done for line in found if (done := place(plan, line, backbone).done)]
        ends: dict[tuple[int, int], list[float]] = {}
        for one in (result for done in of_lines for result in done):
            for point in validations(one)[-1:]:
                ends.setdefault((one.fold, one.seed), []).append(point.seconds)
        times |= {(backbone, *at): min(known) for at, known in ends.items() if len(known) == len(of_lines)}
    return times
