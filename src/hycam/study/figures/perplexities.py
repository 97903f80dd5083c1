"""Perplexity by a setting (the number of specialised modules, the training rows) and by cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hycam.methods import method
from hycam.study.comparisons import Comparison
from hycam.study.figures.series import Series, best_or_all, in_common, labelled, perplexity, series
from hycam.study.figures.style import band, blank, drawing, legend_below, log_axis, looks, panels_by_backbone
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import need
from hycam.training.run import BASE
from hycam.tuners.hycam import HyCAMConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPERTS = "method.config.num_specialized"
ROWS = "data.train_rows"
_COSTS = {"trainable_parameters": "trainable parameters", "seconds": "seconds of training"}
_PERPLEXITY = (
    "Perplexity is exp of the mean over tasks of the NLL per response token. Points are means over the folds and seeds "
    "that everything in a panel has; bands are their range."
)

Line = dict[float, list[Result]]
"""The cells at each value of the setting."""


@drawing(
    "Perplexity and the number of specialised modules (the paper's Figure 3)",
    f"{_PERPLEXITY} The paper shows a curve without numbers, so it is not drawn here.",
)
def draw_num_specialized(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A line for each kind of HyCAM with two or more values, whether varied or listed as methods."""
    kinds: dict[str, list[Series]] = {}
    for group in series([one for one in plan.results.done if _experts(one) is not None], along=[EXPERTS]):
        kinds.setdefault(_without_experts(group.results[0]), []).append(group)
    # A kind whose values are listed as methods takes the shortest of their labels.
    merged = [
        replace(min(kind, key=lambda one: len(one.method)), results=[cell for one in kind for cell in one.results])
        for kind in kinds.values()
    ]
    lines = {}
    for key, cells in labelled(merged).items():
        line: Line = {}
        for one in cells:
            line.setdefault(_experts(one) or 0, []).append(one)
        if len(line) > 1:
            lines[key] = line
    need(lines, f"It needs HyCAM with two or more numbers of specialised modules (vary {EXPERTS}).")
    figure, every = _drawn(lines)
    for axes in every:
        axes.set_xlabel("specialised modules, $N_s$", parse_math=True)
    return figure


@drawing("Perplexity and the amount of data", _PERPLEXITY)
def draw_data_ladder(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A line for each method, by the training rows of each task."""
    rows = {cell.identity: fmean(cell.data.rows.values()) for cell in plan.cells}
    lines: dict[tuple[str, str], Line] = {}
    for key, cells in labelled(series([one for one in plan.results.done if ROWS in one.settings], [ROWS])).items():
        for one in cells:
            limit = one.settings[ROWS]
            lines.setdefault(key, {}).setdefault(rows[one.identity] if limit is None else limit, []).append(one)
    need(any(len(line) > 1 for line in lines.values()),
         f"It needs methods trained on two or more numbers of rows (vary {ROWS}).")  # fmt: skip
    figure, every = _drawn(lines, scale="log")
    for axes in every:
        axes.set_xlabel("training rows of each task")
    return figure


def _drawn(lines: dict[tuple[str, str], Line], scale: str = "linear") -> tuple[Figure, Sequence[Axes]]:
    """A panel for each backbone, with mean and range over the folds and seeds that all its points have."""
    figure, every, look = panels_by_backbone(lines)
    for axes, own in every:
        points = [(label, x, line[x]) for label, line in own.items() for x in sorted(line)]
        kept = in_common([results for *_, results in points])
        for label in own:
            found = {x: perplexity(cells) for (name, x, _), cells in zip(points, kept, strict=True) if name == label}
            band(axes, list(found), zip(*found.values(), strict=True), label, look[label])
        values = sorted({x for _, x, _ in points})
        axes.set_xscale(scale)
        axes.set_xticks(values, [f"{x:,.0f}" for x in values])
        axes.set_xticks([], minor=True)
        axes.set_ylabel("perplexity")
    legend_below(figure)
    return figure, [axes for axes, _ in every]


def _experts(result: Result) -> int | None:
    """N_s of a cell; None if it has no specialised modules."""
    settings = result.content["settings"]["method"]
    config = None if settings["name"] == BASE else method(settings["name"]).config(settings["config"])
    if not isinstance(config, HyCAMConfig) or config.specialized == "none":
        return None
    return config.num_specialized


def _without_experts(result: Result) -> str:
    """What distinguishes a kind of HyCAM apart from N_s."""
    settings = result.content["settings"]["method"]
    config: dict[str, Any] = {key: value for key, value in settings["config"].items() if key != "num_specialized"}
    varied = {key: value for key, value in result.settings.items() if key != EXPERTS}
    return json.dumps([result.backbone, settings["name"], config, settings["optimizer"], varied], sort_keys=True)


@drawing(
    "Perplexity and cost",
    "Each method's perplexity on unseen rows against its trainable parameters and its training time in seconds "
    "(validation included). Points are means over the folds and seeds that all methods have; bars are their range.",
)
def draw_cost(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Two panels for each backbone, with a point for each method."""
    groups = labelled(series([one for one in best_or_all(plan) if one.training]))
    need(groups, "It needs a trained cell.")
    look = looks(dict.fromkeys(name for _, name in groups))
    backbones = dict.fromkeys(backbone for backbone, _ in groups)
    figure = blank(2.9 * len(backbones))
    every = figure.subplots(len(backbones), 2, squeeze=False, sharey="row")
    for pair, backbone in zip(every, backbones, strict=True):
        own = {name: cells for (of, name), cells in groups.items() if of == backbone}
        for name, cells in zip(own, in_common(list(own.values())), strict=True):
            at = perplexity(cells)
            for axes, cost in zip(pair, _COSTS, strict=True):
                costs = fmean(one.training[cost] for one in cells if one.training)
                axes.errorbar(costs, at.mean, yerr=[[at.mean - at.low], [at.high - at.mean]], capsize=2, label=name,
                              **{**look[name], "linestyle": "none"})  # fmt: skip
        for axes, what in zip(pair, _COSTS.values(), strict=True):
            log_axis(axes, what)
        pair[0].set_ylabel("perplexity" if len(backbones) == 1 else f"perplexity, {backbone}")
    legend_below(figure)
    return figure
