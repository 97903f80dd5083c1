"""The curves of a search for learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hycam.study.comparisons import Comparison
from hycam.study.figures.style import GREY, legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.sweep import RATE
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, float]
"""Loss by learning rate, rates ascending; infinite where training diverged."""

# Nats above the best of all at which the axis ends: a rate as bad as that is out of the question, and drawn to scale
# it would press everything that matters into a line.
ROOM = 0.5


@styled
def draw_learning_rates(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each method and variant; the best rate of each is ringed."""
    curves = curves_of(plan)
    if not any(math.isfinite(loss) for curve in curves.values() for loss in curve.values()):
        raise NotRun("It needs the cells of a sweep, or of a study that varies training.learning_rate.")
    backbones = dict.fromkeys(backbone for backbone, _ in curves)
    look = looks(dict.fromkeys(label for _, label in curves))
    figure, every = panels(backbones, height=3.4)
    for axes, backbone in zip(every, backbones, strict=True):
        own = {label: curve for (of, label), curve in curves.items() if of == backbone}
        for label, curve in own.items():
            axes.plot(list(curve), list(curve.values()), label=label, **look[label])
            best = min(curve, key=lambda rate: curve[rate])
            axes.plot(best, curve[best], "o", markersize=11, markerfacecolor="none", color=look[label]["color"])
        rates = sorted({rate for curve in own.values() for rate in curve})
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel(f"{plan.study.evaluation.part} loss (nats per token)")
        _mark_beyond(axes, own, look)
    legend_below(figure, every)
    return figure


def curves_of(plan: Plan) -> dict[tuple[str, str], Curve]:
    """By backbone and method: the mean over tasks of the NLL, averaged over folds and seeds, at each learning rate.

    A rate at which one of them diverged counts as diverged.
    """
    losses: dict[tuple[str, str], dict[float, list[float]]] = {}
    for one in plan.results.done + plan.results.failed:
        if RATE in one.settings and one.task is None and one.state != "failed":
            value = one.macro["nll"] if one.state == "done" else None
            of_rate = losses.setdefault((one.backbone, one.method), {}).setdefault(one.settings[RATE], [])
            of_rate.append(math.inf if value is None else value)
    return {key: {rate: fmean(values) for rate, values in sorted(curve.items())} for key, curve in losses.items()}


def _mark_beyond(axes: Axes, curves: Mapping[str, Curve], look: Mapping[str, Mapping[str, Any]]) -> None:
    """Ends the axis ``ROOM`` above the best and puts what lies beyond above its edge, side by side at one rate."""
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
    for rate, labels in beyond.items():
        for place, label in enumerate(labels):
            shift = ScaledTranslation((place - (len(labels) - 1) / 2) * 7 / 72, 7 / 72, axes.figure.dpi_scale_trans)
            diverged = math.isinf(curves[label][rate])
            axes.plot(
                rate, 1.0, marker=look[label]["marker"], color=look[label]["color"], clip_on=False,
                markerfacecolor="none" if diverged else look[label]["color"],
                transform=axes.get_xaxis_transform() + shift,
            )  # fmt: skip
    for name, face in (("beyond the axis", GREY), ("diverged", "none")):
        axes.plot([], [], "o", color=GREY, markerfacecolor=face, label=name)
