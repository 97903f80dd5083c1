"""Losses over training and over learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import best_or_all, labelled, series, thinned
from hycam.study.figures.style import GREY, band, drawing, legend_below, panels_by_backbone
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.sweep import RATE
from hycam.study.tables.table import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, float]
"""Loss by learning rate, rates ascending; infinite where training diverged."""

# Nats above the best at which the axis ends: worse rates are irrelevant, and would squeeze the relevant ones.
ROOM = 0.5


@drawing(
    "Learning rates",
    "The mean over tasks of the NLL per response token after training at each peak learning rate; the best of each "
    "method is ringed. Rates more than half a nat above the best of all, and those at which training diverged "
    "(hollow), are drawn above the upper edge.",
)
def draw_learning_rates(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each method and variant."""
    curves = curves_of(plan)
    need(any(math.isfinite(loss) for curve in curves.values() for loss in curve.values()),
         f"It needs the cells of a sweep, or of a study that varies {RATE}.")  # fmt: skip
    figure, every, look = panels_by_backbone(curves, height=3.4)
    for axes, own in every:
        for label, curve in own.items():
            axes.plot(list(curve), list(curve.values()), label=label, **look[label])
            best = min(curve, key=lambda rate: curve[rate])
            axes.plot(best, curve[best], "o", markersize=11, markerfacecolor="none", color=look[label]["color"])
        rates = sorted({rate for curve in own.values() for rate in curve})
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="peak learning rate", ylabel=f"{plan.study.evaluation.part} loss (nats per token)")
        _mark_beyond(axes, own, look)
    legend_below(figure)
    return figure


def curves_of(plan: Plan) -> dict[tuple[str, str], Curve]:
    """By backbone and method, the NLL at each learning rate, averaged over tasks, folds and seeds.

    A rate counts as diverged if any of its cells did.
    """
    losses: dict[tuple[str, str], dict[float, list[float]]] = {}
    for one in plan.results.done + plan.results.failed:
        if RATE in one.settings and one.task is None and one.state != "failed":
            value = one.macro["nll"] if one.state == "done" else None
            of_rate = losses.setdefault((one.backbone, one.method), {}).setdefault(one.settings[RATE], [])
            of_rate.append(math.inf if value is None else value)
    return {key: {rate: fmean(values) for rate, values in sorted(curve.items())} for key, curve in losses.items()}


def _mark_beyond(axes: Axes, curves: Mapping[str, Curve], look: Mapping[str, Mapping[str, Any]]) -> None:
    """Ends the axis ``ROOM`` above the best and draws what lies beyond above its edge, side by side at each rate."""
    from matplotlib.transforms import ScaledTranslation

    top = min(loss for curve in curves.values() for loss in curve.values()) + ROOM
    beyond: dict[float, list[str]] = {}
    for label, curve in curves.items():
        for rate in [rate for rate, loss in curve.items() if loss > top or math.isinf(loss)]:
            beyond.setdefault(rate, []).append(label)
    if not beyond:
        return
    if math.isfinite(top):  # else all of them diverged
        axes.set_ylim(top=top)
    axes.set_title(axes.get_title(), pad=18)
    for rate, names in beyond.items():
        for place, label in enumerate(names):
            shift = ScaledTranslation((place - (len(names) - 1) / 2) * 7 / 72, 7 / 72, axes.figure.dpi_scale_trans)
            diverged = math.isinf(curves[label][rate])
            axes.plot(
                rate, 1.0, marker=look[label]["marker"], color=look[label]["color"], clip_on=False,
                markerfacecolor="none" if diverged else look[label]["color"],
                transform=axes.get_xaxis_transform() + shift,
            )  # fmt: skip
    for name, face in (("beyond the axis", GREY), ("diverged", "none")):
        axes.plot([], [], "o", color=GREY, markerfacecolor=face, label=name)


@drawing(
    "Task loss over training (the paper's Figure 5)",
    "Training loss without the balance term: the unweighted mean over tasks of the NLL per response token since the "
    "last line of the log; a task without a batch in between is interpolated. Lines are means over seeds and folds, "
    "bands their range. Methods with the same seed see the same rows in the same order, hence their common ups and "
    "downs.",
)
def draw_task_loss(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each method."""
    groups = [one for one in series(best_or_all(plan)) if all(_logs_tasks(cell) for cell in one.results)]
    need(groups, "It needs trained cells that logged the loss of each task (training.log_every below the steps).")
    figure, every, look = panels_by_backbone(labelled(groups))
    for axes, own in every:
        for name, cells in own.items():
            steps, *bounds = over_cells([task_loss(cell) for cell in cells])
            band(axes, steps, bounds, name, look[name], markevery=max(1, len(steps) // 8))
        axes.set(xlabel="optimizer step", ylabel="task loss (nats per token)")
    legend_below(figure)
    return figure


def task_loss(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Steps and task loss of one training, ``[lines]`` each: the unweighted mean over tasks of ``loss_TASK``.

    Validation loss and perplexity are averaged in the same way. So that it does not depend on which tasks the last
    batches held, a task that is missing from a line is interpolated.
    """
    lines = [line for line in result.content["curve"] if "loss" in line]
    steps = np.asarray([line["step"] for line in lines], dtype=np.float64)
    each = []
    for task in dict.fromkeys(key for line in lines for key in line if key.startswith("loss_")):
        known = np.asarray([(line["step"], line[task]) for line in lines if task in line])
        each.append(np.interp(steps, known[:, 0], known[:, 1]))
    return steps, np.mean(each, axis=0)


def over_cells(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Steps, smallest, mean and largest value of several curves at their common steps, thinned."""
    steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    values = np.stack([value[np.isin(own, steps)] for own, value in curves])  # [curves, steps]
    few, few_values = thinned(np.asarray(steps)), thinned(values)
    return few, few_values.min(axis=0), few_values.mean(axis=0), few_values.max(axis=0)


def _logs_tasks(result: Result) -> bool:
    return any(key.startswith("loss_") for line in result.content["curve"] for key in line)
