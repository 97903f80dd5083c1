"""The search for learning rates: the same half-decade grid for every method, extended if the best is at an edge."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from hycam.errors import HycamError
from hycam.study.grid import RATE
from hycam.study.recipe import StudyRecipe
from hycam.study.results import Result


@dataclass(frozen=True)
class Best:
    """The best trial of one method on one backbone.

    Attributes:
        label: of the best variant (the method itself, if it has none).
        rate: the best learning rate.
        nll: its mean over tasks of the validation NLL per token; infinite if every trial diverged.
        trials: the number of settings tried, including those of variants.
        at_edge: whether it is the largest or the smallest rate tried.
    """

    label: str
    rate: float
    nll: float
    trials: int
    at_edge: bool


def best(study: StudyRecipe, results: Sequence[Result]) -> dict[tuple[str, str], Best]:
    """The best trial by (backbone, method): the lowest mean validation loss over folds and seeds.

    Diverged cells (part of ``results``) have an infinite loss; if all diverged, the smallest rate is the best.
    """
    trials: dict[tuple[str, str], dict[tuple[str, float], list[float]]] = {}
    for one in results:
        if RATE in one.settings:
            family = family_of(study, one.method)
            value = one.macro["nll"] if one.state == "done" else None
            found = trials.setdefault((one.backbone, family), {}).setdefault((one.method, one.settings[RATE]), [])
            found.append(math.inf if value is None else value)
    chosen = {}
    for key, of_family in trials.items():
        means = {trial: sum(values) / len(values) for trial, values in of_family.items()}
        label, rate = min(means, key=lambda trial: (means[trial], trial))
        rates = [other for name, other in means if name == label]
        chosen[key] = Best(label, rate, means[label, rate], len(means), rate in (min(rates), max(rates)))
    return chosen


def extensions(
    study: StudyRecipe, results: Sequence[Result], unfinished: Container[tuple[str, str]]
) -> list[tuple[str, str, float]]:
    """The next trials, as (backbone, method label, rate): one step beyond each best rate that is at an edge.

    Args:
        study: the sweep.
        results: the trials so far, including diverged ones.
        unfinished: each (backbone, method) with a planned trial that has no result yet; these have to wait.
    """
    wanted = []
    for (backbone, family), found in best(study, results).items():
        if (backbone, family) in unfinished:
            continue
        rates = {one.settings[RATE] for one in results if (one.backbone, one.method) == (backbone, found.label)}
        if found.at_edge and len(rates) < study.sweep.most_trials:
            wanted.append((backbone, found.label, next_rate(found.rate, down=found.rate == min(rates))))
    return wanted


def family_of(study: StudyRecipe, label: str) -> str:
    """The method for which a label's trials count."""
    return study.methods[label].variant_of or label


def next_rate(rate: float, down: bool) -> float:
    """The neighbour in 1, 3, 10, 30, ...: half a decade, rounded to one digit."""
    exponent = math.floor(math.log10(rate) + 1e-9)
    is_three = rate / 10.0**exponent > 2
    if down:
        return float(f"1e{exponent}") if is_three else float(f"3e{exponent - 1}")
    return float(f"1e{exponent + 1}") if is_three else float(f"3e{exponent}")


def rates(found: Mapping[tuple[str, str], Best]) -> dict[tuple[str, str], float]:
    """The best learning rate by (backbone, label of the best variant), for another study.

    Raises:
        HycamError: every trial of a method diverged.
    """
    for (backbone, method), one in found.items():
        if not math.isfinite(one.nll):
            raise HycamError(
                f"Every learning rate that was tried for {method} on {backbone} diverged, down to {one.rate:g}. Sweep "
                "smaller ones (sweep.learning_rates, sweep.most_trials), or give the method one of its own."
            )
    return {(backbone, one.label): one.rate for (backbone, _), one in found.items()}
