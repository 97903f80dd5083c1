"""The matrix of single-task training, and joint training beside it, against differences taken by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hycam.study.figures.interference import draw_interference, interferences
from hycam.study.results import Results
from hycam.study.tables.table import NotRun
from study.factory import TASKS
from study.figures.plans import alone, folds


def test_rows_are_trained_and_columns_tested_less_what_training_on_the_column_alone_gives() -> None:
    plan = alone()
    found = {one.method: one for one in interferences(plan)}
    assert list(found) == ["LoRA", "HyCAM"]
    for method, one in found.items():
        assert one.tasks == list(TASKS)
        for i, trained in enumerate(TASKS):
            for j, tested in enumerate(TASKS):
                differences = [
                    plan.results.select(method=method, task=trained, fold=fold)[0].tasks[tested]["nll"]
                    - plan.results.select(method=method, task=tested, fold=fold)[0].tasks[tested]["nll"]
                    for fold in (0, 1)
                ]
                assert one.matrix[i, j] == pytest.approx(np.mean(differences), abs=1e-12)
        np.testing.assert_allclose(np.diagonal(one.matrix), 0)
        np.testing.assert_allclose(one.joint, (0.004 + 0.014) / 2)


def test_it_is_drawn_with_numbers_and_white_at_zero() -> None:
    figure = draw_interference(alone(), [])
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["LoRA", "HyCAM"]
    for axes in maps:
        low, high = axes.images[0].get_clim()
        assert low == -high
        shown = [text.get_text() for text in axes.texts]
        assert shown.count("+0.009") == 5  # the row of joint training
        assert shown.count("") == 5  # the diagonal
        assert axes.images[0].get_array().shape == (6, 5)


def test_without_joint_training_its_row_is_empty() -> None:
    plan = alone()
    single = replace(plan, results=Results([one for one in plan.results.done if one.task is not None]))
    assert np.isnan(interferences(single)[0].joint).all()
    axes = draw_interference(single, []).axes[0]
    assert [text.get_text() for text in axes.texts][-5:] == [""] * 5


def test_a_method_that_lacks_a_task_is_left_out() -> None:
    plan = alone()
    lacking = [one for one in plan.results.done if (one.method, one.task) != ("LoRA", "dolly")]
    assert [one.method for one in interferences(replace(plan, results=Results(lacking)))] == ["HyCAM"]
    with pytest.raises(NotRun, match="single_tasks"):
        draw_interference(folds(), [])
