"""The report in a few sentences: the study's progress, and where a method wins, ties or loses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from hycam.study.cells import told
from hycam.study.comparisons import Comparison
from hycam.study.family import PRIMARY, SECONDARY
from hycam.study.plan import Plan
from hycam.study.significance import MACRO
from hycam.study.status import cell_states, counted

_VERDICTS = {
    "lower": "lower (a win) than that of",
    "equivalent": "equivalent, within one percent, to that of",
    "higher": "higher (a loss) than that of",
    "undecided": "neither shown to differ from nor to equal that of",
}
_UNTESTED = "not tested, for lack of a second fold in common, against that of"


def summary(plan: Plan, comparisons: Sequence[Comparison]) -> list[str]:
    """The sentences at the top of the page and on the command line."""
    waits = [plan.waits_for] if plan.waits_for else []
    note = [plan.study.note] if plan.study.note else []
    return [_progress(plan), *waits, *(_learning_rates(plan) or _verdicts(plan, comparisons)), *note]


def main_sentences(comparisons: Iterable[Comparison]) -> list[str]:
    """The sentences of the comparisons over all tasks."""
    return [one.sentence for one in comparisons if one.task == MACRO]


def _progress(plan: Plan) -> str:
    counts = counted(cell_states(plan))
    total = len(plan.cells)
    cells = f"{total} cell{'s' if total != 1 else ''}"
    if counts["done"] == total:
        return f"The study is complete: {cells}, all done."
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"The study is not complete: of {cells}, {states}."


def _learning_rates(plan: Plan) -> list[str]:
    """The best rate of each method; for a sweep, which compares nothing else."""
    so_far = " so far" if plan.to_go else ""
    found = []
    for (backbone, method), best in plan.best.items():
        label = "" if best.label == method else f", as {best.label},"
        trials = f"{best.trials} trial{'s' if best.trials != 1 else ''}"
        edge = ", at the edge of what was tried" if best.at_edge else ""
        found.append(
            f"On {backbone}, the best learning rate{so_far} of {method}{label} is {best.rate:g} (validation NLL "
            f"{best.nll:.4f} per token, {trials}{edge})."
        )
    return found


def _verdicts(plan: Plan, comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return ["Nothing is compared yet: that needs two methods with finished cells on the same fold."]
    over_tasks = [one for one in comparisons if one.task == MACRO]
    found = [
        sentence
        for _, group in itertools.groupby(over_tasks, key=lambda one: (one.backbone, one.method, dict(one.settings)))
        for sentence in _sentences(list(group))
    ]
    for backbone in plan.study.backbones:
        compared = {name for one in comparisons if one.backbone == backbone for name in (one.method, one.against)}
        missing = [name for name in plan.study.methods if name not in compared]
        if missing:
            found.append(f"On {backbone}, not compared, for lack of finished cells: {_listed(missing)}.")
    return found


def _sentences(group: Sequence[Comparison]) -> list[str]:
    """One for each family with a test, and one for what was not tested."""
    first = group[0]
    where = ", ".join([f"On {first.backbone}", *(told(name, value) for name, value in first.settings.items())])
    said = f"the perplexity of {first.method} over all tasks is"
    found = []
    for family in (PRIMARY, SECONDARY):
        tested = [one for one in group if one.test is not None and one.family == family]
        against = {words: [one.against for one in tested if one.verdict == name] for name, words in _VERDICTS.items()}
        if parts := [f"{words} {_listed(names)}" for words, names in against.items() if names]:
            found.append(f"{where}, in the {family} family, {said} {'; '.join(parts)}.")
    if untested := [one.against for one in group if one.test is None]:
        found.append(f"{where}, {said} {_UNTESTED} {_listed(untested)}.")
    return found


def _listed(names: Sequence[str]) -> str:
    """``A, B and C``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
