"""What a method gains on its tasks against what it forgets of the rest, as its training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hycam.study.comparisons import Comparison
from hycam.study.figures.frontier import FORGETTING, GAIN
from hycam.study.figures.series import Series, in_common, labels, series
from hycam.study.figures.style import GREY, legend_below, looks, panels, styled
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.table import NotRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = "retention_"

Point = tuple[int, float, float]
"""Step, forgetting in bits per byte, gain in nats."""


@styled
def draw_frontier_training(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """A panel for each backbone, a path for each method and setting through the validations of its training."""
    paths = paths_of(plan)
    backbones = dict.fromkeys(backbone for backbone, _ in paths)
    look = looks(dict.fromkeys(label for _, label in paths))
    figure, every = panels(backbones, height=3.6)
    for axes, backbone in zip(every, backbones, strict=True):
        for (of, label), points in paths.items():
            if of == backbone:
                axes.plot([point[1] for point in points], [point[2] for point in points], label=label, **look[label])
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel(FORGETTING)
        axes.set_ylabel(GAIN)
    legend_below(figure, every)
    return figure


def paths_of(plan: Plan) -> dict[tuple[str, str], list[Point]]:
    """By backbone and method (with the varied settings), a point for each validation: means over folds and seeds.

    Forgetting is the mean over the retention tasks; the gain is the validation loss before the first step minus that
    of the step. Steps that not all cells of a path have (one was stopped early) are left out.

    Raises:
        NotRun: no cell was measured at its validations.
    """
    found = series([one for one in plan.results.done if _validations(one)])
    if not found:
        raise NotRun("It needs trained cells whose retention was measured as they went (retention.at_validations).")
    paths: dict[tuple[str, str], list[Point]] = {}
    for backbone in dict.fromkeys(group.backbone for group in found):
        own = [group for group in found if group.backbone == backbone]
        common = in_common([group.results for group in own])
        for group, label, cells in zip(own, labels(own), common, strict=True):
            paths[backbone, label] = _path(group, cells)
    return paths


def _path(group: Series, cells: list[Result]) -> list[Point]:
    every = [_validations(one) for one in cells]
    if any(0 not in validations for validations in every):
        raise NotRun(f"{group.method} has no validation before the first step, to measure gains from.")
    steps = sorted(set.intersection(*(set(validations) for validations in every)))
    return [
        (
            step,
            fmean(_forgetting(validations[step]) for validations in every),
            fmean(validations[0]["eval_loss"] - validations[step]["eval_loss"] for validations in every),
        )
        for step in steps
    ]


def _validations(result: Result) -> dict[int, Mapping[str, Any]]:
    """Those lines of the log that have a validation with its retention, by step."""
    return {
        line["step"]: line
        for line in result.content["curve"]
        if "eval_loss" in line and any(key.startswith(KEPT) for key in line)
    }


def _forgetting(line: Mapping[str, Any]) -> float:
    return fmean(value for key, value in line.items() if key.startswith(KEPT))
