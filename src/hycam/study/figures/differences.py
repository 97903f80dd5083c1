"""The paired differences with their intervals, and the gain by the size of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hycam.study.comparisons import MARGIN, Comparison
from hycam.study.family import PRIMARY
from hycam.study.figures.series import spelled
from hycam.study.figures.style import COLOURS, GREY, blank, drawing, legend_below, log_axis, looks
from hycam.study.plan import Plan
from hycam.study.significance import MACRO, Bootstrap, TTest, percent
from hycam.study.tables.table import NotRun, need
from hycam.training.run import BASE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

_MOST_ROWS = 60  # with more, only the means over tasks are shown
_MACRO = "mean over tasks"
_LEAST_REACH = 3.0  # percent on either side of the axis
_TEST: dict[str, Any] = {"color": COLOURS[0], "fmt": "D", "markersize": 4.5, "linewidth": 1.6, "capsize": 2.5}
_ROWS: dict[str, Any] = {
    "color": COLOURS[1],
    "fmt": "o",
    "markersize": 3.5,
    "linewidth": 0.9,
    "markerfacecolor": "white",
}

Gains = dict[float, tuple[float, float, float]]
"""By parameters of the backbone, ascending: the gain and its interval, in percent of the other's perplexity."""


@drawing(
    "Paired differences",
    "Relative difference of perplexity between two methods on the same folds, with 95 % intervals: of the t test over "
    "folds or replicates (diamonds; corrected for overlapping folds), and of a paired bootstrap over rows, which is "
    "about these trained adapters and not about the method (circles). Differences within the shaded margin count as a "
    "tie. Numbers are from the t test if there is one; verdicts are after Holm's correction within their family, the "
    "primary one where that is said. The unadapted backbone has an axis of its own.",
)
def draw_forest(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A row for each comparison, the mean over tasks first, with both intervals."""
    if plan.study.sweep.learning_rates:
        raise NotRun("A sweep compares learning rates; methods are compared in the study that uses the best ones.")
    measured = [one for one in comparisons if one.test or one.bootstrap]
    need(measured, "It needs two methods on one fold, and two folds or enough rows of each task.")
    groups: dict[str, list[Comparison]] = {}
    for one in measured:
        if one.task == MACRO or len(measured) <= _MOST_ROWS:
            groups.setdefault(_heading(one, measured), []).append(one)
    bases = [heading for heading, rows in groups.items() if plan.study.methods[rows[0].against].name == BASE]
    own_axis = {heading: groups[heading] for heading in bases}  # far from the others, whose intervals it would squeeze
    panels = [part for part in ({k: v for k, v in groups.items() if k not in own_axis}, own_axis) if part]
    lines = [_lines(part) for part in panels]
    figure = blank(1.0 + 0.2 * sum(map(len, lines)) + 0.3 * (len(panels) - 1))
    all_axes = figure.subplots(len(panels), height_ratios=[len(of_panel) for of_panel in lines], squeeze=False)[:, 0]
    for axes, of_panel in zip(all_axes, lines, strict=True):
        _draw_panel(axes, of_panel)
    methods = " or ".join(dict.fromkeys(one.method for one in measured))
    all_axes[-1].set_xlabel(f"difference of perplexity in %; to the left, {methods} is better")
    legend_below(figure)
    return figure


def _draw_panel(axes: Axes, lines: list[tuple[str, Comparison | None]]) -> None:
    margin = [100 * (1 / (1 + MARGIN) - 1), 100 * MARGIN]
    axes.axvspan(*margin, color=GREY, alpha=0.18, linewidth=0, label=f"within {100 * MARGIN:g} %")
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (name, row) in enumerate(lines):
        weight = "bold" if row is None else "normal"
        axes.text(0, place, name, transform=_left_of(axes), ha="right", va="center", weight=weight)
        if row is not None:
            _draw_row(axes, place, row, bold=name == _MACRO)
    axes.set_ylim(len(lines) - 0.5, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    _limit(axes, [row for _, row in lines if row is not None])


def in_percent(found: TTest | Bootstrap) -> tuple[float, float, float]:
    """Mean and interval of a difference of log-perplexity, as percent of perplexity."""
    return percent(found.mean), percent(found.low), percent(found.high)


def _lines(groups: Mapping[str, list[Comparison]]) -> list[tuple[str, Comparison | None]]:
    """The rows from the top: a heading followed by its comparisons, or a single comparison beside its heading."""
    lines: list[tuple[str, Comparison | None]] = []
    for heading, (first, *rest) in groups.items():
        lines += [(heading, None), (_MACRO, first)] if rest else [(heading, first)]
        lines += [(one.task, one) for one in rest]
    return lines


def _draw_row(axes: Axes, place: int, one: Comparison, bold: bool) -> None:
    for found, shift, look, label in (
        (one.test, -0.16, _TEST, "t interval"),
        (one.bootstrap, 0.2, _ROWS, "bootstrap over the rows of these adapters"),
    ):
        if found is not None:
            mean, low, high = in_percent(found)
            known = axes.get_legend_handles_labels()[1]
            axes.errorbar(mean, place + shift, xerr=[[mean - low], [high - mean]], **look,
                          label=None if label in known else label)  # fmt: skip
    shown = one.test or one.bootstrap
    assert shown is not None
    size, *ends = (f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.0e}" for value in in_percent(shown))
    primary = f" ({PRIMARY})" if one.family == PRIMARY else ""
    verdict = f"  {one.verdict}{primary}" if one.test else ""
    weight = "bold" if bold else "normal"
    axes.text(1.01, place, f"{size} [{', '.join(ends)}]".replace("-", "−") + verdict, fontsize=8, va="center",
              weight=weight, transform=axes.get_yaxis_transform())  # fmt: skip


def _limit(axes: Axes, shown: list[Comparison]) -> None:
    """Makes the axis cover every mean and most intervals; the numbers of the others are beside them anyway."""
    means = [abs(in_percent(found)[0]) for one in shown for found in (one.test, one.bootstrap) if found]
    ends = [abs(end) for one in shown for found in (one.test, one.bootstrap) if found for end in in_percent(found)[1:]]
    reach = max(_LEAST_REACH, min(1.05 * max(ends), 3 * max(means)))
    axes.set_xlim(-reach, reach)


def _heading(one: Comparison, measured: list[Comparison]) -> str:
    several = len({other.backbone for other in measured}) > 1
    return ", ".join([f"against {one.against}", *([one.backbone] if several else []), *spelled(one.settings)])


def _left_of(axes: Axes) -> Transform:
    from matplotlib.transforms import ScaledTranslation

    return axes.get_yaxis_transform() + ScaledTranslation(-6 / 72, 0, axes.figure.dpi_scale_trans)


@drawing(
    "Gain and the size of the backbone",
    "How much lower the reference's perplexity is than another method's, all tasks with the same weight, with the 95 % "
    "interval of the comparison; points are shifted sideways to separate their intervals. The line is the "
    "least-squares regression on the logarithm of the size, from three sizes on.",
)
def draw_size_trend(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """The gain over each other method with its interval and, from three sizes on, a regression line."""
    gains = gains_by_size(plan, comparisons)
    need(any(len(of_size) > 1 for of_size in gains.values()),
         "It needs the same two methods on two or more backbones.")  # fmt: skip
    figure = blank(3.4)
    axes = figure.subplots()
    look = looks(gains)
    for place, (label, of_size) in enumerate(gains.items()):
        # Shifted sideways, since the intervals of all methods are at the same few sizes.
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
    legend_below(figure)
    return figure


def gains_by_size(plan: Plan, comparisons: list[Comparison]) -> dict[str, Gains]:
    """By compared method (and settings): how much lower the reference's perplexity over all tasks is."""
    sizes = {one.backbone: float(one.training["total_parameters"]) for one in plan.results.done if one.training}
    gains: dict[str, Gains] = {}
    for one in comparisons:
        found = one.test or one.bootstrap
        if one.task == MACRO and found is not None and one.backbone in sizes:
            label = ", ".join([f"over {one.against}", *spelled(one.settings)])
            mean, low, high = in_percent(found)
            gains.setdefault(label, {})[sizes[one.backbone]] = -mean, -high, -low
    return {label: dict(sorted(of_size.items())) for label, of_size in gains.items()}
