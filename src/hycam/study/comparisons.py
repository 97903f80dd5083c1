"""Compares the reference method of a study with every other; each comparison has a test, a verdict and a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from hycam.study.cells import told
from hycam.study.family import PRIMARY, SECONDARY, Primary
from hycam.study.pairs import Pair, pairs, row_differences
from hycam.study.results import Results
from hycam.study.significance import (
    CORRECTED,
    FEWEST_ROWS,
    LEVEL,
    MACRO,
    PAIRED,
    Bootstrap,
    TTest,
    corrected_t,
    equivalent,
    holm,
    paired_t,
    percent,
    pooled,
    row_bootstrap,
    tost,
)

SEEDS = "paired t of seeds"
"""The kind of a t test over the seeds of one fold: it is about the seed alone."""

MARGIN = 0.01
"""Relative differences of perplexity up to this are a tie."""

# By kind of t test: what it is over, its name, and a remark.
_KINDS = {
    CORRECTED: ("folds", "corrected t", "; approximate"),
    PAIRED: ("disjoint replicates", "paired t", ""),
    SEEDS: ("seeds of one fold", "paired t", "; about the seed alone"),
}
# n_test / n_train of the five folds: test, validation and training parts have one, two and seven of ten blocks.
_TO_TRAIN = {"test": 1 / 7, "validation": 2 / 7}
Differences = Mapping[tuple[int, int], float]
"""Of log-perplexity, by fold and seed."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Comparison:
    """One method against another, on one backbone, for one task or ``MACRO``.

    The unit of ``test`` and ``bootstrap`` is the difference of log-perplexity, which is the mean NLL per response token
    in nats; below 0 the method is the better one. ``exp(difference) - 1`` is the relative difference of perplexity.

    Attributes:
        backbone, method, against: labels; ``against`` is the other method.
        task: a task, or ``MACRO`` for the mean over tasks of the differences.
        settings: the varied fields that both share.
        test: over folds, replicates or seeds; None if there is only one.
        bootstrap: over the rows of these trained adapters; None if there are too few.
        family: ``PRIMARY`` or ``SECONDARY``.
        holm_p: p of ``test`` after Holm's correction over the tested comparisons of its family.
        verdict: on ``method``'s perplexity: ``lower`` or ``higher`` if ``holm_p`` is below 5 %, else ``equivalent`` if
            the equivalence test passes, else ``undecided``; ``not tested`` without ``test``.
        sentence: all of this in words.
    """

    backbone: str
    method: str
    against: str
    task: str
    settings: Mapping[str, Any]
    test: TTest | None
    bootstrap: Bootstrap | None
    family: str
    holm_p: float | None
    verdict: str
    sentence: str


def compare(results: Results, primary: Primary) -> list[Comparison]:
    """The reference method against every other, on every backbone and setting, for every task and over all.

    Args:
        results: of a study.
        primary: names the reference, and the comparisons that are corrected apart from the others.

    Errors are as for :func:`hycam.study.pairs.pairs`.
    """
    drafts = [(pair, draft) for pair in pairs(results, primary.reference) for draft in _drafts(pair, primary)]
    tests = [(draft.family, draft.test.p) for _, draft in drafts if draft.test is not None]
    tested = Counter(family for family, _ in tests)
    corrected = {name: iter(holm([p for family, p in tests if family == name])) for name in (PRIMARY, SECONDARY)}
    found = []
    for pair, draft in drafts:
        judged = draft
        if draft.test is not None:
            p = next(corrected[draft.family])
            judged = replace(draft, holm_p=p, verdict=_verdict(draft.test, p))
        found.append(replace(judged, sentence=_sentence(judged, pair, tested[draft.family])))
    return found


def starred(comparisons: Iterable[Comparison], backbone: str, primary: Primary) -> bool:
    """Whether the reference earns its asterisk: on this backbone its perplexity is lower than that of each method of
    the primary family."""
    verdicts = {one.against: one.verdict for one in comparisons if (one.family, one.backbone) == (PRIMARY, backbone)}
    return bool(primary.against) and all(verdicts.get(name) == "lower" for name in primary.against)


def macro_test(pair: Pair) -> TTest | None:
    """The test of the mean over tasks of the differences of a pair; None if there are not two cells to compare."""
    return _test(pair, _macro(_differences(pair)))


def _drafts(pair: Pair, primary: Primary) -> list[Comparison]:
    """The comparisons of a pair before correction and verdict; the mean over tasks comes first."""
    differences, resampled = _differences(pair), _resampled(pair)
    return [
        Comparison(pair.backbone, pair.method, pair.against, task, pair.settings, _test(pair, of_task),
                   resampled.get(task), primary.family(pair.method, pair.against, task, pair.settings), None,
                   "not tested", "")
        for task, of_task in {MACRO: _macro(differences), **differences}.items()
    ]  # fmt: skip


def _differences(pair: Pair) -> dict[str, Differences]:
    """By task."""
    return {
        task: {place: one.tasks[task]["nll"] - other.tasks[task]["nll"] for place, (one, other) in pair.cells.items()}
        for task in pair.tasks
    }


def _macro(differences: Mapping[str, Differences]) -> Differences:
    places = next(iter(differences.values()), {})
    return {place: fmean(of_task[place] for of_task in differences.values()) for place in places}


def _test(pair: Pair, differences: Differences) -> TTest | None:
    """Over folds (averaging their seeds first); with one fold over its seeds; None if there is only one cell."""
    folds: dict[int, list[float]] = {}
    for (fold, _), value in differences.items():
        folds.setdefault(fold, []).append(value)
    if len(folds) > 1:
        means = [fmean(of_fold) for of_fold in folds.values()]
        content = next(iter(pair.cells.values()))[0].content
        shared = shared_variance(content["settings"]["data"], content["evaluation"]["part"])
        return corrected_t(means, shared) if shared else paired_t(means)
    if len(differences) > 1:
        return replace(paired_t(list(differences.values())), kind=SEEDS)
    return None


def shared_variance(data: Mapping[str, Any], part: str) -> float:
    """``n_test/n_train`` of overlapping folds, for the corrected t; 0 of replicates that share no row of any task.

    ``data`` are the resolved settings of a cell's data, ``part`` what it scores.
    """
    own = [task["split"] for task in data["tasks"] if isinstance(task, Mapping) and task["split"]]
    return 0.0 if all(split.get("by") == "disjoint" for split in (data["split"], *own)) else _TO_TRAIN[part]


def _resampled(pair: Pair) -> dict[str, Bootstrap]:
    """The bootstrap over the rows of all folds: for each task with enough rows, and over all tasks if each has."""
    rows = {}
    for task in pair.tasks:
        of_task = pooled([row_differences(one, other, task) for one, other in pair.cells.values()])
        if len(of_task[0]) >= FEWEST_ROWS:
            rows[task] = of_task
    found = row_bootstrap(rows) if rows else {}
    if len(rows) < len(pair.tasks):
        found.pop(MACRO, None)
    return found


def _verdict(test: TTest, holm_p: float) -> str:
    if holm_p < LEVEL:
        return "lower" if test.mean < 0 else "higher"
    return "equivalent" if equivalent(test, MARGIN) else "undecided"


def _sentence(one: Comparison, pair: Pair, tested: int) -> str:
    parts = [f"{_where(one)}, {one.method} against {one.against}: {_measured(one, pair, tested)}."]
    if one.test is not None:
        parts.append(_judged(one, one.test))
    if one.bootstrap is not None:
        boot = one.bootstrap
        parts.append(
            f"Of these trained adapters alone, over {boot.rows:,} rows resampled: {_change(boot)}, {_p('p', boot.p)}."
        )
    elif pair.cells:
        parts.append(f"Rows cannot be resampled: a task has fewer than {_NUMBERS[FEWEST_ROWS]}.")
    if pair.left_out:
        parts.append(f"Left out: {', '.join(pair.left_out)}.")
    return " ".join(part for part in parts if part)


def _where(one: Comparison) -> str:
    settings = [told(name, value) for name, value in one.settings.items()]
    return ", ".join([f"On {one.backbone}", *settings, "mean over tasks" if one.task == MACRO else one.task])


def _measured(one: Comparison, pair: Pair, tested: int) -> str:
    if not pair.cells:
        return "not compared, since no fold has a finite loss of both"
    if one.test is None or one.holm_p is None:
        (mine, other), *_ = pair.cells.values()
        tasks = pair.tasks if one.task == MACRO else [one.task]
        mean = fmean(mine.tasks[task]["nll"] - other.tasks[task]["nll"] for task in tasks)
        return f"perplexity {_direction(mean)} (one fold: a test needs two)"
    over, name, remark = _KINDS[one.test.kind]
    family = f"over {_count(tested)} {one.family} comparison{'s' if tested > 1 else ''}"
    return (
        f"perplexity {_change(one.test)} ({_count(one.test.n)} {over}, {name}, df {one.test.df}, "
        f"{_p('Holm p', one.holm_p)} {family}{remark})"
    )


def _judged(one: Comparison, test: TTest) -> str:
    within, p = f"within {100 * MARGIN:g} %", _p("p", tost(test, MARGIN))
    if one.verdict == "undecided":
        return "Undecided: neither a difference nor a tie is shown."
    if one.verdict == "equivalent":
        return f"A tie: equivalent {within} (TOST, {p})."
    won = "A win" if one.verdict == "lower" else "A loss"
    return f"{won}, and yet {within} (TOST, {p})." if equivalent(test, MARGIN) else f"{won}."


def _count(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _change(found: TTest | Bootstrap) -> str:
    """A difference of log-perplexity as percent of perplexity: ``0.84 % lower [-1.42, -0.21]``."""
    return f"{_direction(found.mean)} [{_signed(found.low)}, {_signed(found.high)}]"


def _direction(difference: float) -> str:
    if difference == 0:
        return "the same"
    return f"{_signed(difference).lstrip('+-')} % {'lower' if difference < 0 else 'higher'}"


def _signed(difference: float) -> str:
    value = percent(difference)
    return f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.1e}"


def _p(name: str, p: float) -> str:
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.3f}"
