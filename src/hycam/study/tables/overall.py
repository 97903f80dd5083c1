"""Table 2: every method on every backbone over all tasks, with the published figures below ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hycam.study import paper
from hycam.study.comparisons import Comparison, starred
from hycam.study.plan import Plan
from hycam.study.tables.gains import average_gain, peft_baselines
from hycam.study.tables.over_folds import BLANK, Line, is_hycam, lines, need_results, place
from hycam.study.tables.scores import PPL, comparable_backbones, notes, other_data, scores
from hycam.study.tables.table import Entry, Table, marked

_STAR = "*: lower perplexity than every PEFT baseline after Holm's correction."


def main(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x backbones, the paper's Table 2."""
    need_results(plan)
    note = " ".join([*overall_notes(plan), average_gain(plan)]).strip()
    return overall_table(plan, "main", "Methods and backbones, over all tasks", overall_rows(plan, comparisons), note)


def overall_table(plan: Plan, name: str, title: str, rows: list[list[Entry]], note: str) -> Table:
    """A table with the scores of each backbone as columns."""
    headings = [score.heading for score in scores(plan)]
    columns = ["Method", *[heading for _ in plan.study.backbones for heading in headings]]
    groups = [("", 1), *[(backbone, len(headings)) for backbone in plan.study.backbones]]
    return Table(name, title, note, columns, rows, groups)


def overall_rows(plan: Plan, comparisons: Sequence[Comparison]) -> list[list[Entry]]:
    """Ours, each with the published figures below it where those are of the same comparison."""
    found = lines(plan)
    directions = [None, *[score.lower for _ in plan.study.backbones for score in scores(plan)]]
    ours = marked([_ours(plan, line, comparisons) for line in found], directions)
    return [row for line, own in zip(found, ours, strict=True) for row in (own, *_published(plan, line))]


def overall_notes(plan: Plan) -> list[str]:
    """What these rows are."""
    found = notes(plan, "over tasks (and folds)")
    if plan.study.reference in plan.study.methods and peft_baselines(plan):
        found.append(_STAR)
    if comparable_backbones(plan):
        found.append(
            '"paper": as published. "arithmetic mean": our perplexity as the paper probably takes it, the arithmetic '
            "mean of the tasks' perplexities. Both are over all five tasks, of which these have other data here than "
            f"the paper's: {', '.join(other_data(plan))}."
        )
    return found


def _ours(plan: Plan, line: Line, comparisons: Sequence[Comparison]) -> list[Entry]:
    row = [Entry(line.label)]
    for backbone in plan.study.backbones:
        for score in scores(plan):
            entry = score.entry(place(plan, line, backbone))
            has_star = score is PPL and entry.value is not None and _is_starred(plan, line, backbone, comparisons)
            row.append(replace(entry, star=has_star))
    return row


def _is_starred(plan: Plan, line: Line, backbone: str, comparisons: Sequence[Comparison]) -> bool:
    if line.method != plan.study.reference or not is_hycam(plan, line.method):
        return False
    own = [one for one in comparisons if one.settings == line.settings]
    return starred(own, backbone, line.method, peft_baselines(plan))


def _published(plan: Plan, line: Line) -> list[list[Entry]]:
    """The paper's figures, and above them our perplexity taken the paper's way; nothing where there are none."""
    if line.settings or not any(paper.overall(line.method, name) for name in comparable_backbones(plan)):
        return []
    arithmetic, published = [Entry(f"{line.label}, arithmetic mean")], [Entry(f"{line.label}, paper")]
    for backbone in plan.study.backbones:
        printed = paper.overall(line.method, backbone) if backbone in comparable_backbones(plan) else None
        for score in scores(plan):
            if printed is None:
                arithmetic.append(BLANK)
                published.append(BLANK)
                continue
            of_place = place(plan, line, backbone).entry(lambda one: one.macro["perplexity_mean"], muted=True)
            arithmetic.append(of_place if score is PPL else BLANK)
            value = getattr(printed, score.name)
            published.append(Entry(f"{value:.3f}", value, muted=True))
    return [arithmetic, published]
