"""The task loss of every method over training, without the balance term (Figure 5 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.figures.series import best_or_all, labels, series, thinned
from hycam.study.figures.style import legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def draw_task_loss(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a line for each method: mean and range over its seeds and folds."""
    groups = [one for one in series(best_or_all(plan)) if all(_logs_tasks(cell) for cell in one.results)]
    if not groups:
        raise NotRun("It needs trained cells that logged the loss of each task (training.log_every below the steps).")
    names = labels(groups)
    look = looks(dict.fromkeys(names))
    figure, every = panels(dict.fromkeys(one.backbone for one in groups))
    for axes, backbone in zip(every, dict.fromkeys(one.backbone for one in groups), strict=True):
        for group, name in zip(groups, names, strict=True):
            if group.backbone == backbone:
                steps, low, mean, high = over_cells([task_loss(cell) for cell in group.results])
                axes.plot(steps, mean, label=name, markevery=max(1, len(steps) // 8), **look[name])
                axes.fill_between(steps, low, high, color=look[name]["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("task loss (nats per token)")
    legend_below(figure, every)
    return figure


def task_loss(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Steps and task loss of one training, ``[lines]`` each: the mean over tasks of ``loss_TASK``, all weighing alike.

    That is the aggregate of the validation loss and of the headline perplexity, and it does not move with which tasks
    happened to be in the last batches. A task that no batch between two lines held is interpolated, for that reason.
    """
    lines = [line for line in result.content["curve"] if "loss" in line]
    steps = np.asarray([line["step"] for line in lines], dtype=np.float64)
    tasks = dict.fromkeys(key for line in lines for key in line if key.startswith("loss_"))
    each = []
    for task in tasks:
        known = np.asarray([(line["step"], line[task]) for line in lines if task in line])
        each.append(np.interp(steps, known[:, 0], known[:, 1]))
    return steps, np.mean(each, axis=0)


def over_cells(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Steps, smallest, mean and largest of several curves, at the steps that all of them have, thinned first."""
    steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    values = np.stack([value[np.isin(own, steps)] for own, value in curves])  # [curves, steps]
    few, few_values = thinned(np.asarray(steps)), thinned(values)
    return few, few_values.min(axis=0), few_values.mean(axis=0), few_values.max(axis=0)


def _logs_tasks(result: Result) -> bool:
    return any(key.startswith("loss_") for line in result.content["curve"] for key in line)
