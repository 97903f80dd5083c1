"""Table 6: the variants of HyCAM, and its settings where a study varies them."""

from __future__ import annotations

import math

import numpy as np

from hycam.study import paper
from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import BLANK, NONE, Line, is_hycam, lines, need, need_results, of_training, place
from hycam.study.tables.over_rows import Scored, over_rows
from hycam.study.tables.scores import PPL, comparable_backbones, notes, other_data
from hycam.study.tables.table import Entry, Table, marked


def ablations(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Variants, with their size, their perplexity and how much higher it is than the reference's."""
    need_results(plan)
    found = lines(plan, lambda method: is_hycam(plan, method))
    need(len(found) > 1, "This study has no two variants of HyCAM.")
    reference = next((line for line in found if line.method == plan.study.reference), None)
    begin = beginning(plan, "Variant")
    rows = []
    for backbone in plan.study.backbones:
        block = [_line(plan, line, reference, backbone) for line in found]
        rows += marked(block, [*[None] * len(begin), None, True, *[None] * 4])
    against = "" if reference is None else f"Against {reference.label}, %"
    columns = [*begin, "Trainable parameters", "PPL", against, "over rows", "Arithmetic mean", "Paper"]
    keep = [at for at in range(len(columns)) if any(row[at] is not BLANK for row in rows)]
    note = [*notes(plan, "over tasks (and folds)")]
    if reference is not None:
        note.append("Over rows: 95 % interval if other rows had been scored, with the same adapters.")
    if any(row[-1] is not BLANK for row in rows):
        note.append(
            'Beside "Paper", as published, stands our perplexity as the paper probably takes it, the arithmetic mean '
            f"of the tasks' perplexities; the data of {', '.join(other_data(plan))} are not the paper's."
        )
    kept = [[row[at] for at in keep] for row in rows]
    return Table("ablations", "Variants of HyCAM", " ".join(note), [columns[at] for at in keep], kept)


def _line(plan: Plan, line: Line, reference: Line | None, backbone: str) -> list[Entry]:
    own = place(plan, line, backbone)
    published = None
    if not line.settings and backbone in comparable_backbones(plan):
        published = paper.ablation(line.method, backbone)
    mean = BLANK if published is None else own.entry(lambda one: one.macro["perplexity_mean"], muted=True)
    return [
        *headed(plan, backbone, line.label),
        own.entry(of_training("trainable_parameters"), form=",.0f", spread=False),
        PPL.entry(own),
        _difference(plan, line, reference, backbone),
        _interval(plan, line, reference, backbone),
        mean,
        BLANK if published is None else Entry(f"{published:.3f}", published, muted=True),
    ]


def _interval(plan: Plan, line: Line, reference: Line | None, backbone: str) -> Entry:
    """Of the same, over rows; where both are whole and were scored on the same rows."""
    if reference is None:
        return BLANK
    ours, theirs = (place(plan, one, backbone) for one in (line, reference))
    if line == reference or ours.mean(PPL.read) is None or theirs.mean(PPL.read) is None:
        return NONE
    beside = {(one.fold, one.seed): one for one in theirs.done}
    scored: dict[str, list[Scored]] = {}
    for one in ours.done:
        against = beside[one.fold, one.seed]
        if one.tasks.keys() != against.tasks.keys():
            return NONE
        for task in one.tasks:
            mine, other = one.rows(task), against.rows(task)
            if mine.identities != other.identities or not np.array_equal(mine.tokens, other.tokens):
                return NONE
            scored.setdefault(task, []).append((mine.identities, mine.nll - other.nll, mine.tokens))
    found = over_rows(scored)
    return NONE if found is None else Entry(f"[{_percent(found.low):+.2f}, {_percent(found.high):+.2f}]")


def _percent(difference: float) -> float:
    return 100 * math.expm1(difference)


def _difference(plan: Plan, line: Line, reference: Line | None, backbone: str) -> Entry:
    """Of perplexity, in percent of the reference's; where both are whole."""
    if reference is None:
        return BLANK
    ours, theirs = (place(plan, one, backbone).mean(PPL.read) for one in (line, reference))
    if ours is None or theirs is None:
        return NONE
    percent = _percent(ours - theirs)
    return NONE if line == reference else Entry(f"{percent:+.2f}", percent)
