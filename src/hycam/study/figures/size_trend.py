"""How the gain of the reference goes with the size of the backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import spelled
from hycam.study.figures.style import GREY, blank, legend_below, log_axis, looks, styled
from hycam.study.plan import Plan
from hycam.study.significance import MACRO, Bootstrap, TTest
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Gains = dict[float, tuple[float, float, float]]
"""By parameters of the backbone, ascending: the gain and its interval, in percent of the other's perplexity."""


@styled
def draw_size_trend(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A line for each other method: the gain over it with its interval, and from three sizes on its regression."""
    gains = gains_by_size(plan, comparisons)
    if not any(len(of_size) > 1 for of_size in gains.values()):
        raise NotRun("It needs the same two methods on two or more backbones.")
    figure = blank(3.4)
    axes = figure.subplots()
    look = looks(gains)
    for place, (label, of_size) in enumerate(gains.items()):
        # Set apart sideways, since the intervals of all methods stand at the same few sizes.
        sizes = np.asarray(list(of_size)) * 1.03 ** (place - (len(gains) - 1) / 2)
        mean, low, high = np.asarray(list(of_size.values())).T
        axes.errorbar(sizes, mean, yerr=[mean - low, high - mean], capsize=2, linewidth=0.9, label=label,
                      **{**look[label], "linestyle": "none"})  # fmt: skip
        if len(sizes) > 2:
            slope, start = np.polyfit(np.log10(list(of_size)), mean, 1)
            axes.plot(sizes, slope * np.log10(list(of_size)) + start, color=look[label]["color"],
                      linestyle=look[label]["linestyle"])  # fmt: skip
    axes.axhline(0, color=GREY, linewidth=0.8)
    log_axis(axes, "parameters of the backbone")
    axes.set_ylabel(f"perplexity of {comparisons[0].method} lower by (%)")
    legend_below(figure, [axes])
    return figure


def gains_by_size(plan: Plan, comparisons: list[Comparison]) -> dict[str, Gains]:
    """By the methods compared (and settings): over all tasks, by what the reference's perplexity is lower."""
    sizes = {one.backbone: float(one.training["total_parameters"]) for one in plan.results.done if one.training}
    gains: dict[str, Gains] = {}
    for one in comparisons:
        found = one.test or one.bootstrap
        if one.task == MACRO and found is not None and one.backbone in sizes:
            label = ", ".join([f"over {one.against}", *spelled(one.settings)])
            gains.setdefault(label, {})[sizes[one.backbone]] = _lower(found)
    return {label: dict(sorted(of_size.items())) for label, of_size in gains.items()}


def _lower(found: TTest | Bootstrap) -> tuple[float, float, float]:
    """A difference of log-perplexity, its interval turned round: ``1 - exp(difference)`` in percent."""
    mean, high, low = -100 * np.expm1([found.mean, found.low, found.high])
    return float(mean), float(low), float(high)
