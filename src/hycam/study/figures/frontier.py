"""What a method gains on its tasks against what it forgets of the rest."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import in_common, nll, series
from hycam.study.figures.style import GREY, legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import NotRun
from hycam.training.run import BASE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORGETTING = "forgetting (bits per byte; to the right is worse)"
GAIN = "gain over the backbone (nats per token)"

Point = tuple[float, float, float]
"""Learning rate, forgetting in bits per byte, gain in nats."""


@styled
def draw_frontier(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a path for each method along its learning rates, the smallest rate hollow."""
    paths = paths_of(plan)
    backbones = dict.fromkeys(backbone for backbone, _ in paths)
    look = looks(dict.fromkeys(label for _, label in paths))
    figure, every = panels(backbones, height=3.6)
    for axes, backbone in zip(every, backbones, strict=True):
        for (of, label), points in paths.items():
            if of != backbone:
                continue
            ordered = sorted(points)
            forgetting, gain = [one[1] for one in ordered], [one[2] for one in ordered]
            axes.plot(forgetting, gain, label=label, **look[label])
            if len(ordered) > 1:
                axes.plot(forgetting[0], gain[0], marker=look[label]["marker"], color=look[label]["color"],
                          markerfacecolor="white", zorder=3)  # fmt: skip
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel(FORGETTING)
        axes.set_ylabel(GAIN)
    legend_below(figure, every)
    return figure


def paths_of(plan: Plan) -> dict[tuple[str, str], list[Point]]:
    """By backbone and method, a point for each of its settings: means over the folds and seeds that all have.

    Forgetting is the mean over the retention tasks of the difference in bits per byte; the gain is the log-perplexity
    of the backbone as it is, on the same fold, minus that of the cell.

    Raises:
        NotRun: no cell has retention, or the backbone as it is was not scored.
    """
    done = plan.results.done
    measured = series([one for one in done if one.content["retention"] and one.training is not None])
    base: dict[tuple[str, int], list[Result]] = {}
    for one in done:
        if one.content["settings"]["method"]["name"] == BASE:
            base.setdefault((one.backbone, one.fold), []).append(one)
    if not measured:
        raise NotRun("It needs trained cells whose retention was measured (retention.tasks).")
    if not base:
        raise NotRun(f"It needs the backbone as it is among the methods (name: {BASE}), to measure gains from.")
    paths: dict[tuple[str, str], list[Point]] = {}
    for backbone in dict.fromkeys(group.backbone for group in measured):
        own = [group for group in measured if group.backbone == backbone]
        scored = [[one for one in group.results if (backbone, one.fold) in base] for group in own]
        for group, cells in zip(own, in_common(scored), strict=True):
            rate = fmean(one.training["learning_rate"] for one in cells if one.training)
            paths.setdefault((backbone, group.method), []).append(
                (rate, fmean(map(forgetting, cells)), fmean(gain(one, base[backbone, one.fold]) for one in cells))
            )
    return paths


def forgetting(result: Result) -> float:
    """Bits per byte that the retention tasks cost more than before, the mean over tasks."""
    return fmean(task["difference"] for task in result.content["retention"]["tasks"].values())


def gain(result: Result, base: list[Result]) -> float:
    """The log-perplexity of the backbone as it is minus that of a cell: nats per token, above 0 is better."""
    return fmean(map(nll, base)) - nll(result)
