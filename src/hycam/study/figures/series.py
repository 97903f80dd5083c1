"""Groups finished cells into the lines of a figure, and averages over folds and seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from hycam.study.cells import told
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.sweep import RATE
from hycam.study.tables.table import need

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """One or more cells of a backbone and method that share their ``settings``, except the one on a figure's axis."""

    backbone: str
    method: str
    settings: Settings
    results: list[Result]


class Spread(NamedTuple):
    """The smallest, mean and largest of some values."""

    low: float
    mean: float
    high: float


def best_or_all(plan: Plan) -> list[Result]:
    """The finished cells trained on all tasks; for a sweep, only those of each method's best trial."""
    together = [one for one in plan.results.done if one.task is None]
    if not plan.study.sweep.learning_rates:
        return together
    best = {(backbone, found.label, found.rate) for (backbone, _), found in plan.best.items()}
    return [one for one in together if (one.backbone, one.method, one.settings.get(RATE)) in best]


def series(results: Iterable[Result], along: Sequence[str] = ()) -> list[Series]:
    """Groups the finished cells that were trained on all tasks and have a finite loss, in grid order.

    ``along`` are varied settings that do not separate cells.
    """
    found: dict[tuple[str, str, str], Series] = {}
    for one in results:
        if one.task is None and one.macro["nll"] is not None:
            shared = {name: value for name, value in one.settings.items() if name not in along}
            key = (one.backbone, one.method, json.dumps(shared, sort_keys=True))
            found.setdefault(key, Series(one.backbone, one.method, shared, [])).results.append(one)
    return list(found.values())


def labels(found: Sequence[Series]) -> list[str]:
    """The name of each line: its method, and the settings in which lines differ."""
    names = list(dict.fromkeys(name for one in found for name in one.settings))
    apart = [name for name in names if len({json.dumps(one.settings.get(name)) for one in found}) > 1]
    return [
        ", ".join([one.method, *spelled({name: one.settings[name] for name in apart if name in one.settings})])
        for one in found
    ]


def labelled(found: Sequence[Series]) -> dict[tuple[str, str], list[Result]]:
    """The cells of each line, by backbone and label."""
    return {(one.backbone, label): one.results for one, label in zip(found, labels(found), strict=True)}


def spelled(settings: Settings) -> list[str]:
    """``["train_rows 32", "r 8"]``: varied settings without the path to them."""
    return [told(name, value) for name, value in settings.items()]


def in_common(groups: Sequence[Sequence[Result]]) -> list[list[Result]]:
    """The cells of the folds and seeds that every group has, so that all saw the same data; or NotRun."""
    places = set.intersection(*({(one.fold, one.seed) for one in group} for group in groups))
    need(places, "No fold is finished for everything that the figure compares; run more cells.")
    return [[one for one in group if (one.fold, one.seed) in places] for group in groups]


def perplexity(results: Iterable[Result]) -> Spread:
    """``exp`` of the mean, the smallest and the largest NLL (each the mean over tasks) of the cells."""
    return spread([nll(one) for one in results], math.exp)


def spread(values: Sequence[float], scale: Callable[[float], float] = float) -> Spread:
    return Spread(scale(min(values)), scale(fmean(values)), scale(max(values)))


def thinned(values: np.ndarray, most: int = 60) -> np.ndarray:
    """``[..., n]`` with neighbours averaged if n is above ``most``, so that points can be told apart."""
    bins = np.array_split(np.arange(values.shape[-1]), min(most, values.shape[-1]))
    return np.stack([values[..., one].mean(axis=-1) for one in bins], axis=-1)


def nll(result: Result) -> float:
    """The mean over tasks of the NLL per response token: the logarithm of the headline perplexity."""
    value = result.macro["nll"]
    assert value is not None  # series() skips those
    return value
