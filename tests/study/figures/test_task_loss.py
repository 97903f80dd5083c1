"""The task loss of the log: a mean over tasks, without the balance term, and blind to which tasks a batch held."""

from __future__ import annotations

import numpy as np
import pytest

from hycam.study.figures.task_loss import draw_task_loss, over_cells, task_loss
from hycam.study.results import Result
from study.factory import plan_of, steady, study_of
from study.figures.drawn import legend, lines
from study.figures.plans import LEVELS, WITH_BASE, long_curve, seeds, sweep


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


def test_of_a_sweep_one_line_for_each_method() -> None:
    assert legend(draw_task_loss(sweep(), [])) == [
        "Full Finetune, learning_rate 0.0003", *(f"{name}, learning_rate 0.001" for name in list(LEVELS)[1:5])
    ]  # fmt: skip
