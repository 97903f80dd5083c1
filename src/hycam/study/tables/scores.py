"""The three figures of a method, as the paper's tables have them: perplexity, BLEU-4 and ROUGE-L."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hycam.evaluation.tokens import Tokens
from hycam.study import paper
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.over_folds import Place, spread_note
from hycam.study.tables.table import Entry

MARKS = (
    "Bold: the best of a column, on each backbone by itself; underlined: the second. What has fewer folds than planned "
    "says so and is not marked."
)


@dataclass(frozen=True)
class Score:
    """One of them.

    Attributes:
        name: in the published tables.
        heading: over its column.
        key: in a result.
        lower: whether lower is better.
        shown: from the mean over folds of what the result has to what is printed.
    """

    name: str
    heading: str
    key: str
    lower: bool
    shown: Callable[[float], float]

    def read(self, result: Result, task: str | None = None) -> float | None:
        """Of one task, or over all of them (each weighs the same); None where the perplexity is no finite number."""
        figures = result.macro if task is None else result.tasks[task]
        return None if figures["perplexity"] is None else figures[self.key]

    def entry(self, place: Place, task: str | None = None) -> Entry:
        return place.entry(lambda one: self.read(one, task), self.shown)


PPL = Score("ppl", "PPL", "nll", True, math.exp)
ALL_SCORES = (PPL, Score("bleu4", "BLEU-4", "bleu4", False, float), Score("rougeL", "ROUGE-L", "rougeL", False, float))


def scores(plan: Plan) -> list[Score]:
    """Those that the study's results have: without answers there is no BLEU-4 and no ROUGE-L."""
    return [
        score for score in ALL_SCORES if score is PPL or any(score.read(one) is not None for one in plan.results.done)
    ]


def comparable_backbones(plan: Plan) -> list[str]:
    """The backbones of which some cell is of the paper's comparison."""
    return list(dict.fromkeys(cell.backbone for cell in plan.cells if paper.is_comparable(cell)))


def other_data(plan: Plan) -> list[str]:
    """The tasks of the paper's comparison whose data here are not the paper's."""
    return list(
        dict.fromkeys(name for cell in plan.cells if paper.is_comparable(cell) for name in paper.other_data(cell))
    )


def notes(plan: Plan, over: str) -> list[str]:
    """What the figures are; ``over`` says over what the perplexity is taken."""
    found = [f"PPL: exp of the mean {over} of the NLL per response token, {plan.study.evaluation.part} part."]
    if len(scores(plan)) > 1:
        answers = sorted({task["generated_rows"] for one in plan.results.done for task in one.tasks.values()})
        number = "–".join(f"{count:,}" for count in dict.fromkeys((answers[0], answers[-1])))
        found.append(
            f"BLEU-4 and ROUGE-L: of {number} greedy answers a task, of at most {plan.study.evaluation.max_new_tokens} "
            "new tokens; secondary on small backbones."
        )
        found += other_words(plan)
    return [*found, spread_note(plan), MARKS]


def other_words(plan: Plan) -> list[str]:
    """How answers were scored where their words are not those of English, by task."""
    ways = {
        f"{name}: BLEU-4 {task['bleu_signature']}, ROUGE-L of {task['rouge_tokens']} words."
        for one in plan.results.done
        for name, task in one.tasks.items()
        if task.get("rouge_tokens") not in (None, Tokens.rouge)
    }
    return sorted(ways)
