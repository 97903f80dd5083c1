"""What a method gains on its tasks against what it forgets: by learning rate, and over training."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import in_common, labelled, nll, series
from hycam.study.figures.style import GREY, drawing, legend_below, panels_by_backbone
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import need
from hycam.training.run import BASE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT = "retention_"

Point = tuple[float, float, float]
"""Learning rate or step, forgetting in bits per byte, gain in nats."""

Paths = dict[tuple[str, str], list[Point]]
"""By backbone and label."""


@drawing(
    "Gain and forgetting",
    "Gain: log-perplexity of the unadapted backbone minus that of the adapted one, on the same rows. Forgetting: the "
    "increase in bits per byte of the gold continuations, averaged over the retention tasks. A path follows a method's "
    "learning rates from the smallest (white), which forgets least with any method: compare methods by their paths, "
    "not by single points.",
)
def draw_frontier(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a path for each method along its learning rates."""
    return _drawn({key: sorted(points) for key, points in paths_by_rate(plan).items()}, mark_first=True)


@drawing(
    "Gain and forgetting over training",
    "A path follows the validations of a training, starting at the unadapted backbone (no gain, no forgetting). Gain: "
    "the validation loss before the first step minus that of the step. Forgetting: the increase in bits per byte of "
    "the gold continuations, averaged over the retention tasks.",
)
def draw_frontier_training(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a path for each method and setting through its validations."""
    return _drawn(paths_by_step(plan), mark_first=False)


def _drawn(paths: Paths, mark_first: bool) -> Figure:
    figure, every, look = panels_by_backbone(paths, height=3.6)
    for axes, own in every:
        for label, points in own.items():
            forgetting, gain = [one[1] for one in points], [one[2] for one in points]
            axes.plot(forgetting, gain, label=label, **look[label])
            if mark_first and len(points) > 1:
                axes.plot(forgetting[0], gain[0], marker=look[label]["marker"], color=look[label]["color"],
                          markerfacecolor="white", zorder=3)  # fmt: skip
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set(xlabel="forgetting (bits per byte; to the right is worse)",
                 ylabel="gain over the backbone (nats per token)")  # fmt: skip
    legend_below(figure)
    return figure


def paths_by_rate(plan: Plan) -> Paths:
    """By backbone and method, a point for each setting: means over the folds and seeds that all settings have.

    Raises:
        NotRun: no cell has retention, or the unadapted backbone was not scored.
    """
    done = plan.results.done
    measured = series([one for one in done if one.content["retention"] and one.training is not None])
    base: dict[tuple[str, int], list[float]] = {}
    for one in done:
        if one.content["settings"]["method"]["name"] == BASE:
            base.setdefault((one.backbone, one.fold), []).append(nll(one))
    need(measured, "It needs trained cells whose retention was measured (retention.tasks).")
    need(base, f"It needs the unadapted backbone among the methods (name: {BASE}) as the baseline of gains.")
    paths: Paths = {}
    for backbone in dict.fromkeys(group.backbone for group in measured):
        own = [group for group in measured if group.backbone == backbone]
        scored = [[one for one in group.results if (backbone, one.fold) in base] for group in own]
        for group, cells in zip(own, in_common(scored), strict=True):
            rate = fmean(one.training["learning_rate"] for one in cells if one.training)
            gain = fmean(fmean(base[backbone, one.fold]) - nll(one) for one in cells)
            paths.setdefault((backbone, group.method), []).append((rate, fmean(map(_forgetting, cells)), gain))
    return paths


def _forgetting(result: Result) -> float:
    """The increase in bits per byte, averaged over the retention tasks."""
    return fmean(task["difference"] for task in result.content["retention"]["tasks"].values())


def paths_by_step(plan: Plan) -> Paths:
    """By backbone and method (with settings), a point for each validation that all cells have: means over these.

    Raises:
        NotRun: no cell measured retention at its validations, or one has no validation before the first step.
    """
    found = series([one for one in plan.results.done if _validations(one)])
    need(found, "It needs trained cells whose retention was measured as they went (retention.at_validations).")
    paths: Paths = {}
    for backbone in dict.fromkeys(group.backbone for group in found):
        own = labelled([group for group in found if group.backbone == backbone])
        for key, cells in zip(own, in_common(list(own.values())), strict=True):
            every = [_validations(one) for one in cells]
            need(all(0 in validations for validations in every),
                 f"{cells[0].method} has no validation before the first step as the baseline of gains.")  # fmt: skip
            steps = sorted(set.intersection(*(set(validations) for validations in every)))
            paths[key] = [_point(step, every) for step in steps]
    return paths


def _point(step: int, every: list[dict[int, Mapping[str, Any]]]) -> Point:
    kept = [[value for key, value in one[step].items() if key.startswith(_KEPT)] for one in every]
    return step, fmean(map(fmean, kept)), fmean(one[0]["eval_loss"] - one[step]["eval_loss"] for one in every)


def _validations(result: Result) -> dict[int, Mapping[str, Any]]:
    """The log's validations with retention, by step."""
    return {
        line["step"]: line
        for line in result.content["curve"]
        if "eval_loss" in line and any(key.startswith(_KEPT) for key in line)
    }
