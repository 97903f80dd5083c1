"""Losses over training and over learning rates, as they are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes

from hycam.study.figures.curves import ROOM, curves_of, draw_learning_rates, draw_task_loss, over_cells, task_loss
from hycam.study.recipe import SweepRecipe
from hycam.study.results import Result
from study.factory import DIVERGED, FAILED, plan_of, steady, study_of, sweep_evaluation
from study.figures.drawn import legend, lines
from study.figures.plans import LEVELS, RATE, RATES, WITH_BASE, long_curve, seeds, shifted, sweep

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


def result(lines: list[dict]) -> Result:
    return Result({"curve": lines})


def test_it_is_the_mean_over_tasks_and_has_neither_the_balance_term_nor_validation() -> None:
    steps, loss = task_loss(
        result(
            [
                {"step": 5, "loss": 9.0, "balance_loss": 7.0, "loss_a": 1.0, "loss_b": 3.0},
                {"step": 5, "eval_loss": 8.0, "eval_loss_a": 8.0},
                {"step": 10, "loss": 9.0, "loss_a": 2.0, "loss_b": 3.5},
            ]
        )
    )
    np.testing.assert_array_equal(steps, [5, 10])
    np.testing.assert_allclose(loss, [2.0, 2.75])


def test_a_task_that_was_not_seen_for_a_while_is_interpolated() -> None:
    lines = [{"step": step, "loss": 0.0, "loss_a": 1.0, "loss_b": float(step)} for step in (1, 2, 4)]
    del lines[1]["loss_b"]
    _, loss = task_loss(result(lines))
    np.testing.assert_allclose(loss, [1.0, (1 + 2) / 2, (1 + 4) / 2])  # b is 2 at step 2, and not left out


def test_seeds_are_averaged_at_the_steps_that_all_of_them_have() -> None:
    one = np.array([10.0, 20.0, 30.0]), np.array([3.0, 2.0, 1.0])
    stopped_early = np.array([10.0, 20.0]), np.array([5.0, 6.0])
    steps, low, mean, high = over_cells([one, stopped_early])
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(low, [3, 2])
    np.testing.assert_array_equal(mean, [4, 4])
    np.testing.assert_array_equal(high, [5, 6])


def test_a_line_for_each_trained_method_and_none_for_the_backbone_as_it_is() -> None:
    plan = plan_of(study_of(WITH_BASE, folds=[0]), steady(LEVELS))
    assert legend(draw_task_loss(plan, [])) == list(LEVELS)[:5]


def test_the_line_is_the_mean_of_the_seeds() -> None:
    plan = seeds()
    (axes,) = draw_task_loss(plan, []).axes
    drawn = np.asarray(lines(axes)["LoRA"])
    each = [task_loss(one)[1] for one in plan.results.select(method="LoRA")]
    assert len(each) == 3
    lines_in_each_point = [3] * 30 + [2] * 30  # of 150
    assert np.average(drawn[:, 1], weights=lines_in_each_point) == pytest.approx(np.mean(each))
    assert long_curve(plan.cells[0])[0]["step"] < drawn[0, 0] < drawn[-1, 0]
