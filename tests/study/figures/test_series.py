"""Which cells make one line, what it is called, and which folds it may rest on."""

from __future__ import annotations

import numpy as np
import pytest

from hycam.study.figures.series import best_or_all, in_common, labels, series, thinned
from hycam.study.results import Result
from hycam.study.tables.table import NotRun
from study.factory import plan_of, steady, study_of
from study.figures.plans import LEVELS, RATE, ROWS, alone, ladder, sweep


def test_cells_part_by_method_and_by_settings_that_a_figure_does_not_run_along() -> None:
    results = ladder().results.done
    together = series(results, along=[ROWS])
    assert [one.method for one in together] == list(dict.fromkeys(one.method for one in results))
    assert {len(one.results) for one in together} == {9}  # three folds of three values
    assert labels(together) == [one.method for one in together]
    apart = series(results)
    assert {len(one.results) for one in apart} == {3}
    assert labels(apart)[:2] == ["Full Finetune, train_rows 32", "LoRA, train_rows 32"]


def test_cells_of_a_task_alone_and_those_without_a_finite_loss_are_left_out() -> None:
    plan = alone()
    assert all(cell.task is None for one in series(plan.results.done) for cell in one.results)
    result = next(one for one in plan.results.done if one.task is None)
    evaluation = {**result.content["evaluation"], "macro": {"nll": None, "perplexity": None}}
    assert series([Result({**result.content, "evaluation": evaluation})]) == []


def test_only_folds_that_all_have_are_compared() -> None:
    plan = plan_of(study_of(), lambda cell: None if (cell.method, cell.fold) == ("LoRA", 1) else steady(LEVELS)(cell))
    kept = in_common([one.results for one in series(plan.results.done)])
    assert [[one.fold for one in cells] for cells in kept] == [[0, 2, 3, 4]] * 5
    with pytest.raises(NotRun, match="No fold"):
        in_common([[one for one in plan.results.done if one.fold == fold] for fold in (0, 1)])


def test_of_a_sweep_the_best_trial_of_each_method_stands_for_it() -> None:
    plan = sweep()
    best = {one.method: one.settings[RATE] for one in best_or_all(plan)}
    assert best == {"Full Finetune": 3e-4, "LoRA": 1e-3, "MultiLoRA": 1e-3, "RieMoE-LoRA": 1e-3, "HyCAM": 1e-3}
    assert len(best_or_all(plan)) == 5
    assert len(best_or_all(ladder())) == 45


def test_a_long_log_is_averaged_and_a_short_one_is_left() -> None:
    values = np.arange(240.0).reshape(2, 120)
    np.testing.assert_allclose(thinned(values), values.reshape(2, 60, 2).mean(axis=2))
    np.testing.assert_array_equal(thinned(values[:, :7]), values[:, :7])
    assert thinned(values, most=7).mean() == pytest.approx(values.mean(), rel=0.02)
