"""What the router does: by task and layer, over training, and how much it knows of the task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import labels, series, spelled, spread, thinned
from hycam.study.figures.style import GREY, SEQUENTIAL, blank, legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOAD = "routing_"


@styled
def draw_routing(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Of one cell: the modules of one training are not those of another, so nothing could be averaged."""
    routed = [one for one in _first_the_reference(plan) if one.content["routing"]]
    if not routed:
        raise NotRun("It needs a cell whose routing was measured: a method with a router.")
    return routing_maps(routed[0].content["routing"], _named(routed[0]))


@styled
def routing_maps(routing: Mapping[str, Any], title: str) -> Figure:
    """A map of layers by modules for each task, all on one scale.

    Args:
        routing: as :func:`hycam.inspection.routing.routing_by_task` gives it.
        title: what it is of.
    """
    tasks = routing["tasks"]
    across = min(5, len(tasks))
    down = -(-len(tasks) // across)
    figure = blank(0.9 + down * (1.2 + 0.075 * routing["layers"]))
    every = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
    weights = [1 / routing["experts"], *(weight for entry in tasks.values() for weight in np.ravel(entry["weights"]))]
    for axes, (task, entry) in zip(every, tasks.items(), strict=False):
        image = axes.imshow(entry["weights"], cmap=SEQUENTIAL, vmin=min(weights), vmax=max(weights), aspect="auto",
                            origin="lower", interpolation="nearest")  # fmt: skip
        axes.set_title(task)
        axes.grid(False)
        axes.set_xticks(range(routing["experts"]), [str(k + 1) for k in range(routing["experts"])])
        axes.set_xlabel("module")
    for axes in list(every)[len(tasks) :]:
        axes.remove()
    figure.axes[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=figure.axes, label="mean routing probability", pad=0.02)
    bar.ax.axhline(1 / routing["experts"], color="white", linewidth=1.5)
    bar.ax.annotate("1/K", (0, 1 / routing["experts"]), xytext=(-3, 0), textcoords="offset points", ha="right",
                    va="center")  # fmt: skip
    figure.suptitle(title)
    return figure


@styled
def draw_expert_load(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Of one cell, for the same reason; the mean over layers and tokens of each logged interval."""
    logged = [one for one in _first_the_reference(plan) if any(_LOAD + "0" in line for line in one.content["curve"])]
    if not logged:
        raise NotRun("It needs a trained cell of a method with a router that logged its load (training.log_every).")
    result = logged[0]
    lines = [line for line in result.content["curve"] if _LOAD + "0" in line]
    modules = sum(key.startswith(_LOAD) for key in lines[0])
    figure = blank(3.2)
    axes = figure.subplots()
    steps = thinned(np.asarray([line["step"] for line in lines]))
    for k, look in looks(range(modules)).items():
        axes.plot(steps, thinned(np.asarray([line[f"{_LOAD}{k}"] for line in lines])), label=f"module {k + 1}",
                  markevery=max(1, len(steps) // 10), **look)  # fmt: skip
    axes.axhline(1 / modules, color=GREY, linestyle=":", label=f"1/K = {1 / modules:.3g}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("share of the routing probability")
    figure.suptitle(_named(result))
    legend_below(figure, [axes])
    return figure


@styled
def draw_mutual_information(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each routed method: mean and range over folds and seeds."""
    groups = series([one for one in plan.results.done if one.content["routing"]])
    if not groups:
        raise NotRun("It needs a cell whose routing was measured: a method with a router.")
    names = labels(groups)
    look = looks(dict.fromkeys(names))
    backbones = dict.fromkeys(one.backbone for one in groups)
    figure, every = panels(backbones)
    for axes, backbone in zip(every, backbones, strict=True):
        bounds = set()
        for group, name in zip(groups, names, strict=True):
            if group.backbone != backbone:
                continue
            cells = [one.content["routing"] for one in group.results]
            bounds |= {math.log2(min(len(one["tasks"]), one["experts"])) for one in cells}
            layers = [spread(values) for values in zip(*(one["mutual_information"] for one in cells), strict=True)]
            places = range(len(layers))
            axes.plot(places, [one.mean for one in layers], label=name, **look[name])
            axes.fill_between(places, [one.low for one in layers], [one.high for one in layers],
                              color=look[name]["color"], alpha=0.15, linewidth=0)  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlabel("layer")
        axes.set_ylabel("mutual information (bits)")
        most = " or ".join(f"{bound:.2f}" for bound in sorted(bounds))
        axes.text(0.99, 0.97, f"at most {most} bits", transform=axes.transAxes, ha="right", va="top", color=GREY,
                  fontsize=8)  # fmt: skip
    legend_below(figure, every)
    return figure


def _first_the_reference(plan: Plan) -> Sequence[Result]:
    """Cells that were trained on all tasks, those of the study's reference before the others."""
    together = [one for one in plan.results.done if one.task is None]
    return sorted(together, key=lambda one: one.method != plan.study.reference)


def _named(result: Result) -> str:
    return ", ".join(
        [result.method, *spelled(result.settings), result.backbone, f"fold {result.fold}", f"seed {result.seed}"]
    )
