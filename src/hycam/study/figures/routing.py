"""What the router does: by task and layer, over training, and how much it says about the task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import labelled, series, spelled, spread, thinned
from hycam.study.figures.style import (
    GREY,
    SEQUENTIAL,
    band,
    blank,
    drawing,
    legend_below,
    looks,
    panels_by_backbone,
    style,
)
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOAD = "routing_"


@drawing(
    "Routing by task and layer",
    "Mean probabilities of the router over the response tokens of each task, without noise, as in evaluation; a router "
    "that ignores its input gives 1/K. From one training: the modules of others have another order.",
)
def draw_routing(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """For one cell: the modules of different trainings do not correspond, so they cannot be averaged."""
    routed = [one for one in _first_the_reference(plan) if one.content["routing"]]
    need(routed, "It needs a cell whose routing was measured: a method with a router.")
    return routing_maps(routed[0].content["routing"], _named(routed[0]))


@style()
def routing_maps(routing: Mapping[str, Any], title: str) -> Figure:
    """A map of layers by modules for each task, all on one scale.

    ``routing`` is as :func:`hycam.inspection.routing.routing_by_task` returns it.
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


@drawing(
    "Load of the modules over training",
    "The share of the routing probability of each specialised module, averaged over tokens, layers and the steps since "
    "the last line of the log, Gumbel noise included. From one training.",
)
def draw_expert_load(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """For one cell, for the same reason."""
    logged = [one for one in _first_the_reference(plan) if any(_LOAD + "0" in line for line in one.content["curve"])]
    need(logged, "It needs a trained cell of a method with a router that logged its load (training.log_every).")
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
    axes.set(xlabel="optimizer step", ylabel="share of the routing probability")
    figure.suptitle(_named(result))
    legend_below(figure)
    return figure


@drawing(
    "What the routing says about the task",
    "Mutual information between task and module in each layer, from the tasks' mean routing probabilities, all with "
    "the same weight. 0 bits: all tasks are routed alike. Lines are means over folds and seeds, bands their range.",
)
def draw_mutual_information(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each method with a router."""
    groups = labelled(series([one for one in plan.results.done if one.content["routing"]]))
    need(groups, "It needs a cell whose routing was measured: a method with a router.")
    figure, every, look = panels_by_backbone(groups)
    for axes, own in every:
        bounds = set()
        for name, results in own.items():
            cells = [one.content["routing"] for one in results]
            bounds |= {math.log2(min(len(one["tasks"]), one["experts"])) for one in cells}
            layers = [spread(values) for values in zip(*(one["mutual_information"] for one in cells), strict=True)]
            band(axes, range(len(layers)), zip(*layers, strict=True), name, look[name])
        axes.set_ylim(bottom=0)
        axes.set(xlabel="layer", ylabel="mutual information (bits)")
        most = " or ".join(f"{bound:.2f}" for bound in sorted(bounds))
        axes.text(0.99, 0.97, f"at most {most} bits", transform=axes.transAxes, ha="right", va="top", color=GREY,
                  fontsize=8)  # fmt: skip
    legend_below(figure)
    return figure


def _first_the_reference(plan: Plan) -> Sequence[Result]:
    """The cells trained on all tasks, those of the reference first."""
    together = [one for one in plan.results.done if one.task is None]
    return sorted(together, key=lambda one: one.method != plan.study.reference)


def _named(result: Result) -> str:
    return ", ".join(
        [result.method, *spelled(result.settings), result.backbone, f"fold {result.fold}", f"seed {result.seed}"]
    )
