"""Where a layer's values lie with the adapter on and off (Figure 2 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hycam.inspection.representations import NEIGHBOURS, Projection, Representations, project, representations
from hycam.study.comparisons import Comparison
from hycam.study.figures.inspected import adapted_cell, opened
from hycam.study.figures.style import blank, legend_below, looks, styled
from hycam.study.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 20  # of each task


def draw_representations(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Of the responses of the first rows of each task that were scored."""
    cell = adapted_cell(plan)
    model, tokenizer, parts = opened(cell)
    found = representations(model, tokenizer, parts, _ROWS)
    return representation_maps(found, project(found), f"{cell.name}\nvalues of layer {found.layer}")


@styled
def representation_maps(found: Representations, plane: Projection, title: str) -> Figure:
    """The same plane twice: without the adapter and with it, each task in a colour and with a marker of its own."""
    figure = blank(3.9)
    every = figure.subplots(1, 2, sharex=True, sharey=True)
    tasks = np.asarray(found.tasks)
    conditions = (("adapter off", plane.off, plane.distance_off), ("adapter on", plane.on, plane.distance_on))
    for axes, (name, places, distance) in zip(every, conditions, strict=True):
        for task, look in looks(dict.fromkeys(found.tasks)).items():
            own = places[tasks == task]
            axes.plot(own[:, 0], own[:, 1], label=task, markersize=4, alpha=0.75, markeredgewidth=0,
                      **{**look, "linestyle": "none"})  # fmt: skip
        axes.set_title(f"{name}\nmean distance to the {NEIGHBOURS} nearest: {distance:.3f}")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    legend_below(figure, every)
    return figure
