"""What a study can find: the smallest difference that its primary family would show nine times in ten."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict

from scipy import optimize, stats

from hycam.study.cells import told
from hycam.study.comparisons import SEEDS, macro_test, shared_variance
from hycam.study.family import PRIMARY
from hycam.study.pairs import pairs
from hycam.study.plan import Plan
from hycam.study.significance import LEVEL, MACRO, TTest, percent

POWER = 0.9
"""The chance of finding a difference that counts as being able to find it."""

WANTED = (0.003, 0.005, 0.01, 0.02)
"""Relative differences of perplexity for which the number of replicates is told."""

_LEAST_SPREAD = 1e-5  # below, any two replicates find anything; methods may also be identical


def power(effect: float, n: int, tests: int, shared: float = 0.0) -> float:
    """The chance that a two-sided t test over ``n`` paired differences finds an effect, in its true direction.

    It has to pass ``LEVEL / tests``, Holm's first level. T has the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality ``effect / sqrt(1/n + shared)``.

    Args:
        effect: the mean difference in units of the differences' standard deviation, above 0.
        n: folds, replicates or seeds; at least two.
        tests: comparisons of the family.
        shared: what the corrected t adds to 1/n, see :func:`hycam.study.comparisons.shared_variance`.
    """
    critical = stats.t.isf(LEVEL / tests / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, effect / math.sqrt(1 / n + shared)))


def smallest(n: int, tests: int, shared: float = 0.0) -> float:
    """The effect whose :func:`power` is ``POWER``; arguments as there."""
    enough = 1.0
    while power(enough, n, tests, shared) < POWER:
        enough *= 2
    return float(optimize.brentq(lambda effect: power(effect, n, tests, shared) - POWER, 0.0, enough))


def replicates(difference: float, spread: float, tests: int) -> int:
    """The fewest disjoint replicates with which a relative difference of perplexity is found with ``POWER``.

    Args:
        difference: such as 0.01.
        spread: the standard deviation of the paired differences of log-perplexity.
        tests: comparisons of the family.
    """
    effect = math.log1p(difference) / max(spread, _LEAST_SPREAD)
    few, enough = 1, 2
    while power(effect, enough, tests) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(effect, middle, tests) >= POWER else (middle, enough)
    return enough


def power_lines(plan: Plan) -> list[str]:
    """What a study states and can find, in sentences: its primary family, its power, and what more replicates bring.

    The spread is that of the finished cells; without one it is the unit. A sweep compares nothing and has no lines.
    """
    study, primary = plan.study, plan.primary
    if study.sweep.learning_rates:
        return []
    tests = len(primary.against) * len(study.backbones)
    if not tests:
        return ["No comparison is primary: the study has no PEFT baseline, or its `primary` is empty."]
    at = "".join(f", {told(name, value)}" for name, value in primary.settings.items())
    lines = [
        f"Primary family, {tests} comparison{'s' if tests > 1 else ''} over all tasks{at}: {primary.reference} against "
        f"{'; '.join(primary.against)}. All others are secondary."
    ]
    n, units = (len(study.folds), "folds") if len(study.folds) > 1 else (len(study.seeds), "seeds of one fold")
    if n < 2:
        return [*lines, "Power: none, since a test needs two replicates or folds, and the study has one."]
    shared = 0.0
    if units == "folds":
        shared = shared_variance(asdict(plan.cells[0].recipe.data), study.evaluation.part)
        units = units if shared else "replicates"
    effect, found = smallest(n, tests, shared), _tests(plan, of_seeds=len(study.folds) == 1)
    if not found:
        return [
            *lines,
            f"Power: with {n} {units} the primary family finds, nine times in ten, a difference of {effect:.1f} "
            "standard deviations of the paired differences. Two finished cells of two of its methods tell how large "
            "that is.",
        ]
    spreads = [one.error / math.sqrt(1 / one.n + shared) for one in found]
    lines.append(
        f"Power: with {n} {units} and the spread of the finished cells (standard deviation of "
        f"{_range([one.n for one in found], '')} paired differences: {_range(map(percent, spreads))} %), the primary "
        f"family finds, nine times in ten, a difference of {_range(percent(effect * one) for one in spreads)} %."
    )
    if not shared:
        needed = {wanted: [replicates(wanted, spread, tests) for spread in spreads] for wanted in WANTED}
        said = "; ".join(f"{100 * wanted:g} %, {_range(counts, ',')}" for wanted, counts in needed.items())
        lines.append(f"How many {units} it needs, by the difference that it is to find: {said}.")
    return lines


def _tests(plan: Plan, of_seeds: bool) -> list[TTest]:
    """Those of the primary family so far, over what the study plans: seeds of one fold, or folds."""
    primary = plan.primary
    tests = [
        macro_test(pair)
        for pair in pairs(plan.results, primary.reference)
        if primary.family(pair.method, pair.against, MACRO, pair.settings) == PRIMARY
    ]
    return [one for one in tests if one is not None and (one.kind == SEEDS) == of_seeds]


def _range(values: Iterable[float], form: str = ".2f") -> str:
    least, *_, most = sorted([*values] * 2)
    return " to ".join(dict.fromkeys((f"{least:{form}}", f"{most:{form}}")))
