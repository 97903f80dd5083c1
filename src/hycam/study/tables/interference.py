"""Interference: what a task loses, or gains, by being trained together with the others."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import Line, is_trained, lines, need, need_results, place, spread_note
from hycam.study.tables.over_rows import Scored, interval, over_rows
from hycam.study.tables.scores import MARKS
from hycam.study.tables.table import Entry, Table, marked


def interference(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x tasks: NLL after joint training minus that after training on the task alone, on the same fold."""
    need_results(plan)
    need(any(cell.task for cell in plan.cells), "Nothing is trained on one task alone: the study needs single_tasks.")
    need(any(one.task for one in plan.results.done), "No cell with a single task has finished yet.")
    tasks = list(dict.fromkeys(cell.task for cell in plan.cells if cell.task))
    begin, rows = beginning(plan), []
    for backbone in plan.study.backbones:
        found = lines(plan, lambda method: is_trained(plan, method))
        block = [[*headed(plan, backbone, line.label), *_line(plan, line, backbone, tasks)] for line in found]
        rows += marked(block, [*[None] * len(begin), *[True] * (len(tasks) + 1), None])
    note = (
        "NLL per response token after joint training minus that after training on the task alone, nats; above 0 the "
        "other tasks get in the way, below 0 they help. Over rows: 95 % interval of the mean if other rows had been "
        f"scored, with the same adapters. {spread_note(plan)} {MARKS}"
    )
    return Table("interference", "Interference between tasks", note, [*begin, *tasks, "Mean", "Over rows"], rows)


def _line(plan: Plan, line: Line, backbone: str, tasks: list[str]) -> list[Entry]:
    joint = {(one.fold, one.seed): one for one in place(plan, line, backbone).done}
    alone = {task: {(one.fold, one.seed): one for one in place(plan, line, backbone, task).done} for task in tasks}

    def lost(task: str) -> Callable[[Result], float | None]:
        def of(one: Result) -> float | None:
            both = (joint.get((one.fold, one.seed)), alone[task].get((one.fold, one.seed)))
            together, single = (None if cell is None else cell.tasks[task]["nll"] for cell in both)
            return None if together is None or single is None else together - single

        return of

    def mean(one: Result) -> float | None:
        known = [lost(task)(one) for task in tasks]
        return fmean(value for value in known if value is not None) if None not in known else None

    entries = [place(plan, line, backbone, task).entry(lost(task), form="+.4f") for task in tasks]
    whole = [at for at, one in joint.items() if mean(one) is not None]
    scored = {task: [_of_rows(joint[at], alone[task][at], task) for at in whole] for task in tasks if whole}
    return [*entries, place(plan, line, backbone).entry(mean, form="+.4f"), interval(over_rows(scored), "+.4f")]


def _of_rows(together: Result, single: Result, task: str) -> Scored:
    one, other = together.rows(task), single.rows(task)
    return one.identities, one.nll - other.nll, one.tokens
