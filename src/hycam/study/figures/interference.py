"""How training on one task affects another, and what each task loses or gains by training on all together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import Series, in_common, labels
from hycam.study.figures.style import DIVERGING, WIDTH, blank, drawing
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOINT = "all together"
_CLIP = 0.9  # quantile where colours end: one pair of very different tasks would bleach all others


@dataclass(frozen=True)
class Interference:
    """NLL per response token of each task minus that of training on this task alone, in nats; above 0 is worse.

    Attributes:
        method: with its settings, as a title.
        tasks: T of them.
        matrix: trained on the row's task alone, tested on the column's, ``[T, T]``; its diagonal is 0.
        joint: trained on all tasks together, ``[T]``; NaN if that was not run.
    """

    method: str
    tasks: list[str]
    matrix: np.ndarray
    joint: np.ndarray


@drawing(
    "Interference between tasks",
    "NLL per response token of the column's task after training on the row's task alone, minus that after training on "
    "the column's own task alone; above 0 is worse. The last row is trained on all tasks together: below 0 the tasks "
    "help one another, above 0 they interfere. Each task has the same rows alone and together. Colours end at the "
    "ninth decile.",
)
def draw_interference(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A map for each method, all on one scale that is white at zero."""
    found = interferences(plan)
    need(found, "It needs cells of every task alone, of one method (single_tasks: true).")
    tasks = max(len(one.tasks) for one in found)
    across = min(2 if tasks <= 5 else 1, len(found))
    down = -(-len(found) // across)
    figure = blank(0.9 + down * (0.9 + 0.36 * (tasks + 1)), width=WIDTH if across == 2 or tasks > 5 else 4.8)
    every = list(figure.subplots(down, across, squeeze=False).flat)
    values = np.concatenate([np.abs(np.vstack([one.matrix, one.joint])).ravel() for one in found])
    limit = max(float(np.nanquantile(values, _CLIP)), 1e-6)
    for place, (axes, one) in enumerate(zip(every, found, strict=False)):
        shown = np.vstack([one.matrix, one.joint])
        image = axes.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            colour = "white" if abs(value) > 0.65 * limit else "black"
            axes.text(column, row, _number(value, row, column), ha="center", va="center", color=colour, fontsize=8)
        axes.axhline(len(one.tasks) - 0.5, color="black", linewidth=1.5)
        axes.set_xticks(range(len(one.tasks)), one.tasks, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(one.tasks) + 1), [*one.tasks, JOINT] if place % across == 0 else [])
        axes.grid(False)
        axes.set_title(one.method)
        axes.set_xlabel("tested on")
        if place % across == 0:
            axes.set_ylabel("trained on")
    for axes in every[len(found) :]:
        axes.remove()
    figure.colorbar(image, ax=figure.axes, label="nats per token above training on it alone", extend="both", pad=0.02)
    return figure


def interferences(plan: Plan) -> list[Interference]:
    """For every method with a cell of each task alone: means over their common folds and seeds; NaN if non-finite."""
    groups: dict[str, dict[str | None, list[Result]]] = {}
    for one in plan.results.done:
        key = json.dumps([one.backbone, one.method, one.settings], sort_keys=True)
        groups.setdefault(key, {}).setdefault(one.task, []).append(one)
    whole = [alone for alone in groups.values() if len(alone) > 1 and set(_tasks(alone)) <= alone.keys()]
    heads = [next(iter(alone.values()))[0] for alone in whole]
    names = labels([Series(one.backbone, one.method, one.settings, []) for one in heads])
    several = len({one.backbone for one in heads}) > 1
    found = []
    for head, name, alone in zip(heads, names, whole, strict=True):
        tasks = _tasks(alone)
        trained = [*tasks, *([None] if None in alone else [])]
        cells = in_common([alone[task] for task in trained])
        means = np.asarray([np.mean([_nlls(one, tasks) for one in of_task], axis=0) for of_task in cells])
        diagonal = np.diagonal(means[: len(tasks)])
        joint = means[len(tasks)] - diagonal if None in alone else np.full(len(tasks), np.nan)
        title = f"{head.backbone}, {name}" if several else name
        found.append(Interference(title, tasks, means[: len(tasks)] - diagonal, joint))
    return found


def _number(value: float, row: int, column: int) -> str:
    """As printed in a field; empty for NaN and on the diagonal, which is 0 by definition."""
    if row == column or math.isnan(value):
        return ""
    return f"{value:+.3f}".replace("-", "−")


def _tasks(cells: Mapping[str | None, Sequence[Result]]) -> list[str]:
    return list(next(iter(cells.values()))[0].tasks)


def _nlls(result: Result, tasks: Sequence[str]) -> list[float]:
    found = (result.tasks[task]["nll"] for task in tasks)
    return [math.nan if value is None else value for value in found]
