"""Perplexity against what it costs: trainable parameters and seconds of training."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import best_or_all, in_common, labels, perplexity, series
from hycam.study.figures.style import blank, legend_below, log_axis, looks, styled
from hycam.study.plan import Plan
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSTS = {"trainable_parameters": "trainable parameters", "seconds": "seconds of training"}


@styled
def draw_cost(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Two panels for each backbone, a point for each method: mean and range over the folds and seeds that all have."""
    groups = series([one for one in best_or_all(plan) if one.training])
    if not groups:
        raise NotRun("It needs a trained cell.")
    names = labels(groups)
    look = looks(dict.fromkeys(names))
    backbones = dict.fromkeys(one.backbone for one in groups)
    figure = blank(2.9 * len(backbones))
    every = figure.subplots(len(backbones), 2, squeeze=False, sharey="row")
    for pair, backbone in zip(every, backbones, strict=True):
        own = {name: one.results for one, name in zip(groups, names, strict=True) if one.backbone == backbone}
        for name, cells in zip(own, in_common(list(own.values())), strict=True):
            at = perplexity(cells)
            for axes, cost in zip(pair, _COSTS, strict=True):
                costs = fmean(one.training[cost] for one in cells if one.training)
                axes.errorbar(costs, at.mean, yerr=[[at.mean - at.low], [at.high - at.mean]], capsize=2, label=name,
                              **{**look[name], "linestyle": "none"})  # fmt: skip
        for axes, what in zip(pair, _COSTS.values(), strict=True):
            log_axis(axes, what)
        pair[0].set_ylabel("perplexity" if len(backbones) == 1 else f"perplexity, {backbone}")
    legend_below(figure, every.flat)
    return figure
