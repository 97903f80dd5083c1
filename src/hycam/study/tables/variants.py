"""How choices affect a method: HyCAM's variants, the tasks trained together, the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from statistics import fmean

from hycam.study import paper
from hycam.study.comparisons import Comparison
from hycam.study.family import is_hycam
from hycam.study.pairs import other_rows, row_differences
from hycam.study.plan import Plan
from hycam.study.significance import percent
from hycam.study.sweep import RATE, family_of
from hycam.study.tables.places import (
    Column,
    Line,
    Place,
    block,
    blocks,
    column,
    headed,
    interval,
    lines,
    need_results,
    of_training,
    over_rows,
    spread_note,
    tabulated,
    trained_lines,
)
from hycam.study.tables.scores import MARKS, PPL, comparable_backbones, notes, other_data, score_column
from hycam.study.tables.table import BLANK, NONE, Entry, Table, marked, need


def ablations_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Table 6: variants of HyCAM with their size, perplexity, and difference from the reference's."""
    need_results(plan)
    found = lines(plan, lambda method: is_hycam(plan.study, method))
    need(len(found) > 1, "This study has no two variants of HyCAM.")
    reference = next((line for line in found if line.method == plan.study.reference), None)
    columns = [column("Trainable parameters", of_training("trainable_parameters"), ",.0f", spread=False),
               score_column(PPL)]  # fmt: skip
    note = notes(plan, "over tasks (and folds)")
    if reference is not None:
        columns += _against(reference)
        note.append("Over rows: 95 % interval if other rows had been scored, with the same adapters.")
    if any(_published(Place(plan, line, backbone)) for line in found for backbone in plan.study.backbones):
        columns += [Column("Arithmetic mean", _arithmetic), Column("Paper", _printed)]
        note.append(
            'Beside "Paper" (as published) is our perplexity averaged as the paper probably does, the arithmetic mean '
            f"of the tasks' perplexities; the data of {', '.join(other_data(plan))} are not the paper's."
        )
    rows = blocks(plan, found, columns)
    return tabulated(plan, "ablations", "Variants of HyCAM", " ".join(note), columns, rows, "Variant")


def _against(reference: Line) -> list[Column]:
    """The difference from the reference's perplexity in percent, and its interval over rows."""

    def difference(own: Place) -> Entry:
        ours, theirs = (one.mean(PPL.read) for one in (own, replace(own, line=reference)))
        if own.line == reference or ours is None or theirs is None:
            return NONE
        value = percent(ours - theirs)
        return Entry(f"{value:+.2f}", value)

    def over(own: Place) -> Entry:
        other = replace(own, line=reference)
        if own.line == reference or own.mean(PPL.read) is None or other.mean(PPL.read) is None:
            return NONE
        both = [(one, other.cells[at]) for at, one in own.cells.items()]
        if any(other_rows(*cells) for cells in both):
            return NONE
        scored = {task: [row_differences(*cells, task) for cells in both] for task in both[0][0].tasks}
        return interval(over_rows(scored), "+.2f", percent)

    return [Column(f"Against {reference.label}, %", difference), Column("over rows", over)]


def _arithmetic(own: Place) -> Entry:
    return own.entry(lambda one: one.macro["perplexity_mean"], muted=True) if _published(own) else BLANK


def _printed(own: Place) -> Entry:
    value = _published(own)
    return Entry(f"{value:.3f}", value, muted=True) if value else BLANK


def _published(own: Place) -> float | None:
    """The paper's perplexity of a variant, if the cells are part of its comparison."""
    is_comparable = not own.line.settings and own.backbone in comparable_backbones(own.plan)
    return paper.ablation(own.line.method, own.backbone) if is_comparable else None


def interference_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x tasks: NLL after joint training minus that after training on the task alone, on the same fold."""
    need_results(plan)
    tasks = list(dict.fromkeys(cell.task for cell in plan.cells if cell.task))
    need(tasks, "Nothing is trained on one task alone: the study needs single_tasks.")
    need(any(one.task for one in plan.results.done), "No cell with a single task has finished yet.")

    def mean_lost(own: Place) -> dict[tuple[int, int], float]:
        each = [_lost(own, task) for task in tasks]
        return {at: fmean(of_task[at] for of_task in each) for at in each[0] if all(at in one for one in each)}

    def of_task(task: str) -> Column:
        return Column(task, lambda own: _of_cells(own.alone(task), _lost(own, task)), lower=True)

    def over(own: Place) -> Entry:
        joint, alone, whole = own.cells, {task: own.alone(task).cells for task in tasks}, mean_lost(own)
        scored = {task: [row_differences(joint[at], alone[task][at], task) for at in whole] for task in tasks if whole}
        return interval(over_rows(scored), "+.4f")

    mean = Column("Mean", lambda own: _of_cells(own, mean_lost(own)), lower=True)
    columns = [*map(of_task, tasks), mean, Column("Over rows", over)]
    note = (
        "NLL per response token after joint training minus that after training on the task alone, in nats; above 0 the "
        "other tasks interfere, below 0 they help. Over rows: 95 % interval of the mean if other rows had been "
        f"scored, with the same adapters. {spread_note(plan)} {MARKS}"
    )
    rows = blocks(plan, trained_lines(plan), columns)
    return tabulated(plan, "interference", "Interference between tasks", note, columns, rows)


def _lost(joint: Place, task: str) -> dict[tuple[int, int], float]:
    """The cost of joint training on a task, by fold and seed, if both trainings have a finite loss."""
    together, alone = joint.cells, joint.alone(task).cells
    both = {at: [cells[at].tasks[task]["nll"] for cells in (together, alone)] for at in together if at in alone}
    return {at: nlls[0] - nlls[1] for at, nlls in both.items() if None not in nlls}


def _of_cells(own: Place, figures: Mapping[tuple[int, int], float]) -> Entry:
    return own.entry(lambda one: figures.get((one.fold, one.seed)), "+.4f")


def learning_rates_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The trials of a sweep: the validation loss of each method at each learning rate, and the best rate."""
    study = plan.study
    source = study.learning_rates_from
    where = f" Its learning rates are from {source}: report on that one." if source else ""
    need(study.sweep.learning_rates, f"This study is not a sweep of learning rates.{where}")
    need(plan.results.done or plan.results.failed,
         "No trial of this sweep has finished yet: run it with `hycam study`.")  # fmt: skip
    rates = sorted({cell.settings[RATE] for cell in plan.cells if RATE in cell.settings})
    columns = [
        *(_trials(rate) for rate in rates),
        Column("Best", lambda own: _best(own)[0]),
        Column("Trials", lambda own: _best(own)[1]),
    ]
    labels = list(dict.fromkeys(line.method for line in trained_lines(plan)))
    rows = []
    for backbone in study.backbones:
        for family in dict.fromkeys(family_of(study, name) for name in labels):
            own = [Line(name, {}) for name in study.methods if family_of(study, name) == family]
            rows += _marked_together(block(plan, backbone, own, columns), len(headed(plan, "", "")), len(rates))
    note = (
        "Validation loss: the mean over tasks of the NLL per response token. Bold: the best of a method's trials, "
        "underlined: the second; variants and diverged trials count as trials of a method. A best value at an edge "
        f"extends the grid, up to {study.sweep.most_trials} rates. {spread_note(plan)}"
    )
    return tabulated(plan, "learning_rates", "Learning rates: validation loss of every trial", note, columns, rows)


def _marked_together(rows: Sequence[Sequence[Entry]], begin: int, rates: int) -> list[list[Entry]]:
    """The trials of a method and its variants compete with one another, across columns."""
    trials = iter(marked([[entry] for row in rows for entry in row[begin : begin + rates]], [True]))
    return [[*row[:begin], *(next(trials)[0] for _ in range(rates)), *row[begin + rates :]] for row in rows]


def _trials(rate: float) -> Column:
    """A column of trials; blank if the method was not tried at this rate."""

    def entry(own: Place) -> Entry:
        trial = replace(own, line=Line(own.line.method, {RATE: rate}))
        return trial.entry(PPL.read, ".4f") if trial.planned else BLANK

    return Column(f"{rate:g}", entry, group="Learning rate")


def _best(own: Place) -> tuple[Entry, Entry]:
    """The best rate of a method and its number of trials, in the row of the best variant."""
    best = own.plan.best.get((own.backbone, family_of(own.plan.study, own.line.method)))
    if best is None or best.label != own.line.method:
        return BLANK, BLANK
    edge = ", at an edge" if best.at_edge else ""
    rate = Entry(f"{best.rate:g}{edge}", best.rate) if isfinite(best.nll) else Entry("all diverged", muted=True)
    return rate, Entry(str(best.trials), best.trials)
