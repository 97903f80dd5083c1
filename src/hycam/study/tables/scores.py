"""Tables 2 to 5: perplexity, BLEU-4 and ROUGE-L of every method, over all tasks and by task, with the published figures
below ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from hycam.evaluation.tokens import Tokens
from hycam.study import paper
from hycam.study.comparisons import Comparison, starred
from hycam.study.family import is_hycam, peft_baselines
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.gains import average_gain, perplexity_gains, published_gains
from hycam.study.tables.places import (
    Column,
    Line,
    Place,
    block,
    headed,
    lines,
    need_results,
    spread_note,
    tabulated,
    trained_lines,
)
from hycam.study.tables.table import BLANK, NONE, Entry, Table, marked, need

MARKS = (
    "Bold: the best of a column on each backbone; underlined: the second. Entries with fewer folds than planned say so "
    "and are not marked."
)
_STAR = "*: lower perplexity than every method of the primary family after Holm's correction within it: {}."
_FEWEST_SIZES = 3  # a line through two sizes has no interval


@dataclass(frozen=True)
class Score:
    """One of the three scores.

    Attributes:
        name: in the published tables.
        heading: of its column.
        key: in a result.
        lower: whether lower is better.
        shown: maps the mean over folds to the printed figure.
    """

    name: str
    heading: str
    key: str
    lower: bool
    shown: Callable[[float], float]

    def read(self, result: Result, task: str | None = None) -> float | None:
        """The score of one task, or over all with equal weight; None if the perplexity is not finite."""
        figures = result.macro if task is None else result.tasks[task]
        return None if figures["perplexity"] is None else figures[self.key]

    def entry(self, of: Place, task: str | None = None) -> Entry:
        return of.entry(lambda one: self.read(one, task), shown=self.shown)


PPL = Score("ppl", "PPL", "nll", True, math.exp)
ALL_SCORES = (PPL, Score("bleu4", "BLEU-4", "bleu4", False, float), Score("rougeL", "ROUGE-L", "rougeL", False, float))


def scores(plan: Plan) -> list[Score]:
    """The scores that the study's results have; BLEU-4 and ROUGE-L need answers."""
    done = plan.results.done
    return [score for score in ALL_SCORES if score is PPL or any(score.read(one) is not None for one in done)]


def score_column(score: Score, task: str | None = None) -> Column:
    return Column(score.heading, lambda own: score.entry(own, task), score.lower, task or "")


def notes(plan: Plan, over: str) -> list[str]:
    """Notes on the figures; ``over`` says what the perplexity is averaged over."""
    found = [f"PPL: exp of the mean {over} of the NLL per response token, {plan.study.evaluation.part} part."]
    if len(scores(plan)) > 1:
        tasks = [(name, task) for one in plan.results.done for name, task in one.tasks.items()]
        answers = sorted({task["generated_rows"] for _, task in tasks})
        number = "–".join(f"{count:,}" for count in dict.fromkeys((answers[0], answers[-1])))
        found.append(
            f"BLEU-4 and ROUGE-L: of {number} greedy answers a task, of at most {plan.study.evaluation.max_new_tokens} "
            "new tokens; secondary on small backbones."
        )
        found += sorted({
            f"{name}: BLEU-4 {task['bleu_signature']}, ROUGE-L of {task['rouge_tokens']} words."
            for name, task in tasks
            if task.get("rouge_tokens") not in (None, Tokens.rouge)
        })  # fmt: skip
    return [*found, spread_note(plan), MARKS]


def main_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x backbones, the paper's Table 2."""
    need_results(plan)
    reference, peft = plan.study.reference, peft_baselines(plan.study)
    every = [line.method for line in trained_lines(plan) if not is_hycam(plan.study, line.method)]
    own = _whole_scores(plan, [Line(name, {}) for name in (reference, *every)])
    gain = average_gain(own, reference, peft, every, ", ".join(score.heading for score in scores(plan)))
    note = " ".join([*_overall_notes(plan), gain]).strip()
    return _overall(plan, "main", "Methods and backbones, over all tasks", _overall_rows(plan, comparisons), note)


def sizes_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Tables 3 and 4: methods x sizes, with the gain over the best PEFT baseline and its trend over sizes."""
    need_results(plan)
    trained = {one.backbone: one.training["total_parameters"] for one in plan.results.done if one.training}
    parameters = {name: trained[name] for name in plan.study.backbones if name in trained}
    need(len(parameters) > 1, "A comparison of sizes needs trained cells on two backbones at least.")
    reference, peft = plan.study.reference, peft_baselines(plan.study)
    found = {
        line.label: perplexity_gains(
            _whole_scores(plan, [Line(name, line.settings) for name in (reference, *peft)]), reference, peft
        )
        for line in lines(plan, lambda method: method == reference)
    }
    if theirs := published_gains(reference, comparable_backbones(plan)):
        found[f"{reference}, paper"] = theirs
    rows, trends = _overall_rows(plan, comparisons), []
    for label, gains in found.items():
        row = [Entry(f"Gain of {label}, %")]
        for backbone in plan.study.backbones:
            value = gains.get(backbone)
            row += [NONE if value is None else Entry(f"{value:+.2f}", value), *[BLANK] * (len(scores(plan)) - 1)]
        rows.append(row)
        points = [(count, gains[name]) for name, count in parameters.items() if name in gains]
        trends.append(f"Gain of {label}: {trend(points)}.")
    note = " ".join([
        *_overall_notes(plan),
        "Gain: (b - x) / b of the perplexities x and b, b that of the best PEFT baseline on the backbone. Its trend is "
        "the slope of a least-squares line over the logarithm of the size, with the 95 % interval.",
        *trends,
        f"Parameters: {', '.join(f'{name} {count / 1e9:.3g}B' for name, count in parameters.items())}.",
    ])  # fmt: skip
    return _overall(plan, "sizes", "Backbones of several sizes, over all tasks", rows, note)


def tasks_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Table 5: methods x tasks, with a block of rows for each backbone."""
    need_results(plan)
    columns = [score_column(score, task) for task in plan.results.task_names for score in scores(plan)]
    rows, has_paper = [], False
    for backbone in plan.study.backbones:
        found = lines(plan)
        for line, own in zip(found, block(plan, backbone, found, columns), strict=True):
            published = _published_tasks(plan, line, backbone)
            rows += [own, *published]
            has_paper = has_paper or bool(published)
    note = notes(plan, "over folds")
    if has_paper:
        other = ", ".join(other_data(plan))
        note.append(f'"paper": as published, left out where the data here are not the paper\'s: {other}.')
    return tabulated(plan, "tasks", "Methods and tasks", " ".join(note), columns, rows)


def trend(points: Sequence[tuple[int, float]]) -> str:
    """Describes the slope of gains (percent) over the decimal logarithm of the backbones' parameters."""
    known = len({size for size, _ in points})
    if known < _FEWEST_SIZES:
        return f"the trend is undefined with {known} of the {_FEWEST_SIZES} sizes that it needs"
    fit = stats.linregress([math.log10(size) for size, _ in points], [gain for _, gain in points])
    half = float(stats.t.ppf(0.975, len(points) - 2)) * fit.stderr
    ends = f"[{fit.slope - half:+.2f}, {fit.slope + half:+.2f}]"
    return f"{fit.slope:+.2f} percentage points for ten times the size {ends}, {known} sizes"


def comparable_backbones(plan: Plan) -> list[str]:
    """The backbones with a cell that is part of the paper's comparison."""
    return list(dict.fromkeys(cell.backbone for cell in plan.cells if paper.is_comparable(cell)))


def other_data(plan: Plan) -> list[str]:
    """The tasks of the paper's comparison whose data here differ from the paper's."""
    names = (name for cell in plan.cells if paper.is_comparable(cell) for name in paper.other_data(cell))
    return list(dict.fromkeys(names))


def _whole_scores(plan: Plan, compared: Sequence[Line]) -> dict[str, dict[str, list[float | None]]]:
    """Scores by method and backbone, only on backbones where all of these lines are complete: the best of the finished
    baselines may not be the best baseline."""
    whole = [name for name in plan.study.backbones if all(Place(plan, line, name).is_whole for line in compared)]
    return {
        line.method: {name: [score.entry(Place(plan, line, name)).value for score in ALL_SCORES] for name in whole}
        for line in compared
    }


def _overall(plan: Plan, name: str, title: str, rows: list[list[Entry]], note: str) -> Table:
    headings = [score.heading for score in scores(plan)]
    columns = ["Method", *[heading for _ in plan.study.backbones for heading in headings]]
    groups = [("", 1), *[(backbone, len(headings)) for backbone in plan.study.backbones]]
    return Table(name, title, note, columns, rows, groups)


def _overall_rows(plan: Plan, comparisons: Sequence[Comparison]) -> list[list[Entry]]:
    """Our rows, each with the published figures below if those are of the same comparison."""
    found = lines(plan)
    directions = [None, *[score.lower for _ in plan.study.backbones for score in scores(plan)]]
    ours = marked([_ours(plan, line, comparisons) for line in found], directions)
    return [row for line, own in zip(found, ours, strict=True) for row in (own, *_published(plan, line))]


def _overall_notes(plan: Plan) -> list[str]:
    found = notes(plan, "over tasks (and folds)")
    if plan.study.reference in plan.study.methods and plan.primary.against:
        found.append(_STAR.format("; ".join(plan.primary.against)))
    if comparable_backbones(plan):
        found.append(
            '"paper": as published. "arithmetic mean": our perplexity averaged as the paper probably does, the '
            "arithmetic mean of the tasks' perplexities. Both are over all five tasks, of which these have other data "
            f"here than the paper's: {', '.join(other_data(plan))}."
        )
    return found


def _ours(plan: Plan, line: Line, comparisons: Sequence[Comparison]) -> list[Entry]:
    own = [one for one in comparisons if one.settings == line.settings]
    may_have_star = line.method == plan.study.reference and is_hycam(plan.study, line.method)
    row = [Entry(line.label)]
    for backbone in plan.study.backbones:
        has_star = may_have_star and starred(own, backbone, plan.primary)
        for score in scores(plan):
            entry = score.entry(Place(plan, line, backbone))
            row.append(replace(entry, star=has_star and score is PPL and entry.value is not None))
    return row


def _published(plan: Plan, line: Line) -> list[list[Entry]]:
    """The paper's figures, if any, and above them our perplexity averaged as in the paper."""
    backbones = [] if line.settings else comparable_backbones(plan)
    printed = {name: found for name in backbones if (found := paper.overall(line.method, name))}
    if not printed:
        return []
    arithmetic, published = [Entry(f"{line.label}, arithmetic mean")], [Entry(f"{line.label}, paper")]
    for backbone in plan.study.backbones:
        for score in scores(plan):
            is_ours = score is PPL and backbone in printed
            own = Place(plan, line, backbone)
            arithmetic.append(own.entry(lambda one: one.macro["perplexity_mean"], muted=True) if is_ours else BLANK)
            published.append(_as_printed(printed.get(backbone), score))
    return [arithmetic, published]


def _published_tasks(plan: Plan, line: Line, backbone: str) -> list[list[Entry]]:
    """The paper's row, blank for tasks with other data; no row if it would be empty."""
    if line.settings or backbone not in comparable_backbones(plan):
        return []
    names, other = plan.results.task_names, other_data(plan)
    printed = {name: None if name in other else paper.per_task(line.method, backbone, name) for name in names}
    if not any(printed.values()):
        return []
    entries = [_as_printed(printed[name], score) for name in names for score in scores(plan)]
    return [[*headed(plan, backbone, f"{line.label}, paper"), *entries]]


def _as_printed(found: paper.Published | None, score: Score) -> Entry:
    value = None if found is None else getattr(found, score.name)
    return BLANK if value is None else Entry(f"{value:.3f}", value, muted=True)
