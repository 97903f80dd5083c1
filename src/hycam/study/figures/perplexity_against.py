"""Perplexity along a setting: the number of specialised modules (Figure 3 of the paper) and the rows to train on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hycam.methods import method
from hycam.study.comparisons import Comparison
from hycam.study.figures.series import Series, in_common, labels, perplexity, series
from hycam.study.figures.style import legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import NotRun
from hycam.training.run import BASE
from hycam.tuners.hycam import HyCAMConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPERTS = "method.config.num_specialized"
ROWS = "data.train_rows"

Line = dict[float, list[Result]]
"""The cells of each value of the setting."""


@styled
def draw_num_specialized(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """One line for each kind of HyCAM of which two or more values were run, whether varied or methods of their own."""
    kinds: dict[str, list[Series]] = {}
    for group in series([one for one in plan.results.done if _experts(one) is not None], along=[EXPERTS]):
        kinds.setdefault(_without_experts(group.results[0]), []).append(group)
    # A kind whose values are methods of their own is called by the shortest of their labels.
    merged = []
    for kind in kinds.values():
        shortest = min(kind, key=lambda one: len(one.method))
        merged.append(replace(shortest, results=[cell for one in kind for cell in one.results]))
    lines: dict[str, dict[str, Line]] = {}
    for group, label in zip(merged, labels(merged), strict=True):
        line: Line = {}
        for one in group.results:
            line.setdefault(_experts(one) or 0, []).append(one)
        if len(line) > 1:
            lines.setdefault(group.backbone, {})[label] = line
    if not lines:
        raise NotRun(f"It needs HyCAM with two or more numbers of specialised modules (vary {EXPERTS}).")
    figure, every = _drawn(lines)
    for axes in every:
        axes.set_xlabel("specialised modules, $N_s$", parse_math=True)
    return figure


@styled
def draw_data_ladder(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """One line for each method, along the rows of each task that were trained on."""
    rows = {cell.identity: fmean(cell.data.rows.values()) for cell in plan.cells}
    groups = series([one for one in plan.results.done if ROWS in one.settings], along=[ROWS])
    lines: dict[str, dict[str, Line]] = {}
    for group, label in zip(groups, labels(groups), strict=True):
        line = lines.setdefault(group.backbone, {}).setdefault(label, {})
        for one in group.results:
            limit = one.settings[ROWS]
            line.setdefault(rows[one.identity] if limit is None else limit, []).append(one)
    if not any(len(line) > 1 for of_backbone in lines.values() for line in of_backbone.values()):
        raise NotRun(f"It needs methods trained on two or more numbers of rows (vary {ROWS}).")
    figure, every = _drawn(lines, scale="log")
    for axes in every:
        axes.set_xlabel("training rows of each task")
    return figure


def _drawn(lines: Mapping[str, Mapping[str, Line]], scale: str = "linear") -> tuple[Figure, list[Axes]]:
    """A panel for each backbone, with the mean and the range over the folds and seeds that all its points have."""
    look = looks(dict.fromkeys(label for of_backbone in lines.values() for label in of_backbone))
    figure, every = panels(lines)
    for axes, of_backbone in zip(every, lines.values(), strict=True):
        points = [(label, x, of_line[x]) for label, of_line in of_backbone.items() for x in sorted(of_line)]
        kept = in_common([results for *_, results in points])
        for label in of_backbone:
            own = {x: perplexity(cells) for (name, x, _), cells in zip(points, kept, strict=True) if name == label}
            axes.plot(list(own), [at.mean for at in own.values()], label=label, **look[label])
            bounds = [at.low for at in own.values()], [at.high for at in own.values()]
            axes.fill_between(list(own), *bounds, color=look[label]["color"], alpha=0.15, linewidth=0)
        values = sorted({x for _, x, _ in points})
        axes.set_xscale(scale)
        axes.set_xticks(values, [f"{x:,.0f}" for x in values])
        axes.set_xticks([], minor=True)
        axes.set_ylabel("perplexity")
    legend_below(figure, every)
    return figure, every


def _experts(result: Result) -> int | None:
    """N_s of a cell; None where there are no specialised modules."""
    settings = result.content["settings"]["method"]
    config = None if settings["name"] == BASE else method(settings["name"]).config(settings["config"])
    if not isinstance(config, HyCAMConfig) or config.specialized == "none":
        return None
    return config.num_specialized


def _without_experts(result: Result) -> str:
    """What sets a kind of HyCAM apart, N_s left out."""
    settings = result.content["settings"]["method"]
    config: dict[str, Any] = {key: value for key, value in settings["config"].items() if key != "num_specialized"}
    varied = {key: value for key, value in result.settings.items() if key != EXPERTS}
    return json.dumps([result.backbone, settings["name"], config, settings["optimizer"], varied], sort_keys=True)
