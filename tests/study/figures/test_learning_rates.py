"""The curves of a sweep, and where a rate stands that is out of the question."""

from __future__ import annotations

import math

import pytest
from matplotlib.axes import Axes

from hycam.study.figures.learning_rates import ROOM, curves_of, draw_learning_rates
from hycam.study.recipe import SweepRecipe
from study.factory import DIVERGED, FAILED, plan_of, study_of, sweep_evaluation
from study.figures.drawn import legend, lines
from study.figures.plans import RATE, RATES, shifted, sweep

BACKBONE = "SmolLM2 135M"


def above(axes: Axes) -> list[tuple[float, bool]]:
    """What stands over the upper edge: the rate, and whether its marker is hollow."""
    marks = [line for line in axes.get_lines() if not line.get_clip_on()]
    return [(float(line.get_xdata()[0]), line.get_markerfacecolor() == "none") for line in marks]


def test_points_are_the_validation_losses_and_the_best_is_ringed() -> None:
    plan = sweep()
    (axes,) = draw_learning_rates(plan, []).axes
    drawn = lines(axes)
    for one in plan.results.done:
        mean = sum(task["nll"] for task in one.tasks.values()) / 5
        assert dict(drawn[one.method])[one.settings[RATE]] == pytest.approx(mean)
    rings = {line.get_xdata()[0] for line in axes.get_lines() if line.get_markersize() > 10}
    assert rings == {found.rate for found in plan.best.values()} == {3e-4, 1e-3}
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"{rate:g}" for rate in RATES]


def test_what_diverged_is_hollow_and_what_is_far_off_is_full_both_above_the_edge() -> None:
    plan = sweep()
    (axes,) = draw_learning_rates(plan, []).axes
    assert above(axes) == [(1e-3, False), (3e-3, True)]
    lowest = min(value for curve in curves_of(plan).values() for value in curve.values())
    assert axes.get_ylim()[1] == pytest.approx(lowest + ROOM)


def test_one_diverged_fold_is_enough_and_a_failed_cell_says_nothing() -> None:
    study = study_of(["LoRA"], folds=[0, 1], sweep=SweepRecipe(RATES), evaluation=sweep_evaluation())

    def loss(cell):
        if cell.settings[RATE] == 3e-3 and cell.fold == 1:
            return DIVERGED
        return FAILED if cell.settings[RATE] == 1e-4 else 0.0

    curve = curves_of(plan_of(study, shifted(loss)))[BACKBONE, "LoRA"]
    assert list(curve) == [3e-4, 1e-3, 3e-3]
    assert math.isinf(curve[3e-3])
    assert math.isfinite(curve[1e-3])


def test_nothing_stands_above_where_nothing_is_off() -> None:
    study = study_of(["LoRA"], folds=[0], sweep=SweepRecipe(RATES), evaluation=sweep_evaluation())
    figure = draw_learning_rates(plan_of(study, shifted(lambda cell: 0.0)), [])
    assert above(figure.axes[0]) == []
    assert legend(figure) == ["LoRA"]
    assert legend(draw_learning_rates(sweep(), []))[-2:] == ["beyond the axis", "diverged"]
