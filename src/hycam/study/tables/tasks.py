"""Table 5: every method on every task, one block of lines for each backbone."""

from __future__ import annotations

from hycam.study import paper
from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import BLANK, Line, lines, need_results, place
from hycam.study.tables.scores import comparable_backbones, notes, other_data, scores
from hycam.study.tables.table import Entry, Table, marked


def tasks(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x tasks."""
    need_results(plan)
    names, begin = plan.results.task_names, beginning(plan)
    directions = [*[None] * len(begin), *[score.lower for _ in names for score in scores(plan)]]
    rows, has_paper = [], False
    for backbone in plan.study.backbones:
        found = lines(plan)
        ours = marked([_ours(plan, line, backbone, names) for line in found], directions)
        for line, own in zip(found, ours, strict=True):
            published = _published(plan, line, backbone, names)
            rows += [own, *published]
            has_paper = has_paper or bool(published)
    note = notes(plan, "over folds")
    if has_paper:
        other = ", ".join(other_data(plan))
        note.append(f'"paper": as published, left out where the data here are not the paper\'s: {other}.')
    headings = [score.heading for score in scores(plan)]
    columns = [*begin, *[heading for _ in names for heading in headings]]
    groups = [("", len(begin)), *[(name, len(headings)) for name in names]]
    return Table("tasks", "Methods and tasks", " ".join(note), columns, rows, groups)


def _ours(plan: Plan, line: Line, backbone: str, names: list[str]) -> list[Entry]:
    of_backbone = place(plan, line, backbone)
    entries = [score.entry(of_backbone, name) for name in names for score in scores(plan)]
    return [*headed(plan, backbone, line.label), *entries]


def _published(plan: Plan, line: Line, backbone: str, names: list[str]) -> list[list[Entry]]:
    """The paper's line, with nothing where the data are others; no line where there is nothing in it."""
    if line.settings or backbone not in comparable_backbones(plan):
        return []
    same = [name for name in names if name not in other_data(plan)]
    printed = {name: paper.per_task(line.method, backbone, name) for name in same}
    if not any(printed.values()):
        return []
    entries = []
    for name in names:
        for score in scores(plan):
            value = getattr(printed.get(name), score.name, None)
            entries.append(BLANK if value is None else Entry(f"{value:.3f}", value, muted=True))
    return [[*headed(plan, backbone, f"{line.label}, paper"), *entries]]
