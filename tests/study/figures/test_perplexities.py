"""Perplexity along a setting and against what it costs, over the folds that every point has."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hycam.study.figures.perplexities import draw_cost, draw_data_ladder, draw_num_specialized
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod
from hycam.study.results import Results
from hycam.study.tables.table import NotRun
from study.factory import plan_of, steady, study_of
from study.figures.drawn import legend, lines, points
from study.figures.plans import EXPERTS, LEVELS, ROWS, WITH_BASE, costs, experts, ladder, shifted, sizes, sweep


def expected(plan: Plan, **wanted) -> float:
    """``exp`` of the mean over cells of their mean NLL over tasks."""
    cells = [one for one in plan.results.done if all(wanted[key] == one.settings.get(key, getattr(one, key, None))
                                                     for key in wanted)]  # fmt: skip
    return math.exp(np.mean([np.mean([task["nll"] for task in one.tasks.values()]) for one in cells]))


def test_the_number_of_modules_that_is_varied() -> None:
    plan = experts()
    (axes,) = draw_num_specialized(plan, []).axes
    points = lines(axes)["HyCAM"]
    assert [x for x, _ in points] == [1, 2, 3, 5, 8]
    for x, y in points:
        assert y == pytest.approx(expected(plan, **{EXPERTS: x}))


def test_the_number_of_modules_as_methods_of_their_own() -> None:
    methods = {
        "LoRA": StudyMethod("lora"),
        "HyCAM": StudyMethod("hycam"),  # 5 by default
        "HyCAM, one": StudyMethod("hycam", {"num_specialized": 1}),
        "HyCAM, low rank": StudyMethod("hycam", {"r": 8, "num_specialized": 2}),
        "Shared only": StudyMethod("hycam-shared-only"),
    }
    levels = dict(zip(methods, (1.0, 1.1, 1.2, 1.3, 1.4), strict=True))
    plan = plan_of(study_of(methods), steady(levels))
    figure = draw_num_specialized(plan, [])
    found = lines(figure.axes[0])
    assert list(found) == ["HyCAM"]  # neither what has another rank nor what has no modules
    by_number = {1: expected(plan, method="HyCAM, one"), 5: expected(plan, method="HyCAM")}
    assert dict(found["HyCAM"]) == pytest.approx(by_number)


def test_another_varied_setting_makes_lines_of_its_own() -> None:
    study = study_of(["HyCAM"], vary={EXPERTS: [1, 5], "method.config.r": [8, 64]})
    plan = plan_of(study, shifted(lambda cell: 0.1 * (cell.settings["method.config.r"] == 8)))
    figure = draw_num_specialized(plan, [])
    assert legend(figure) == ["HyCAM, r 8", "HyCAM, r 64"]
    assert lines(figure.axes[0])["HyCAM, r 8"][0][1] == pytest.approx(
        expected(plan, **{EXPERTS: 1, "method.config.r": 8})
    )


def test_the_data_ladder_has_a_line_for_each_method() -> None:
    plan = ladder()
    figure = draw_data_ladder(plan, [])
    found = lines(figure.axes[0])
    assert list(found) == list(LEVELS)[:5] == legend(figure)
    for method, drawn in found.items():
        assert dict(drawn) == pytest.approx(
            {rows: expected(plan, method=method, **{ROWS: rows}) for rows in (32, 128, 512)}
        )


def test_all_rows_stand_at_their_number() -> None:
    study = study_of(["LoRA"], vary={ROWS: [10, None]})
    plan = plan_of(study, steady(LEVELS))
    (axes,) = draw_data_ladder(plan, []).axes
    assert [x for x, _ in lines(axes)["LoRA"]] == [10, np.mean(list(plan.cells[-1].data.rows.values()))]


def test_points_rest_on_the_folds_that_all_of_them_have() -> None:
    plan = ladder()
    lacking = [one for one in plan.results.done if (one.settings[ROWS], one.fold) != (512, 0)]
    unfinished = replace(plan, results=Results(lacking))
    kept = replace(plan, results=Results([one for one in plan.results.done if one.fold != 0]))
    (axes,) = draw_data_ladder(unfinished, []).axes
    assert lines(axes)["HyCAM"] == lines(draw_data_ladder(kept, []).axes[0])["HyCAM"]
    assert lines(axes)["HyCAM"] != lines(draw_data_ladder(plan, []).axes[0])["HyCAM"]


def test_one_value_is_no_line() -> None:
    study = study_of(["HyCAM"], vary={EXPERTS: [5], ROWS: [32]})
    plan = plan_of(study, steady(LEVELS))
    for draw in (draw_num_specialized, draw_data_ladder):
        with pytest.raises(NotRun, match="two or more"):
            draw(plan, [])


def test_each_method_stands_at_its_costs() -> None:
    plan = costs()
    parameters, seconds = (points(axes) for axes in draw_cost(plan, []).axes)
    losses = [one.macro["nll"] for one in plan.results.select(method="LoRA")]
    at = (math.exp(sum(losses) / 2), math.exp(min(losses)), math.exp(max(losses)))
    assert parameters["LoRA"] == pytest.approx((19_537_920, *at))
    assert seconds["LoRA"] == pytest.approx((100.5, *at))


def test_a_fold_that_one_method_lacks_counts_for_none() -> None:
    plan = costs()
    lacking = [one for one in plan.results.done if (one.method, one.fold) != ("HyCAM", 1)]
    _, seconds = (points(axes) for axes in draw_cost(replace(plan, results=Results(lacking)), []).axes)
    assert {x for x, *_ in seconds.values()} == {100.0}


def test_the_backbone_as_it_is_costs_nothing_and_is_not_drawn() -> None:
    plan = plan_of(study_of(WITH_BASE), steady(LEVELS))
    assert legend(draw_cost(plan, [])) == list(LEVELS)[:5]


def test_two_panels_for_each_backbone_and_of_a_sweep_one_point_for_each_method() -> None:
    figure = draw_cost(sizes(), [])
    assert len(figure.axes) == 6
    assert figure.axes[2].get_ylabel() == "perplexity, Qwen 1.5B"
    assert len(points(draw_cost(sweep(), []).axes[0])) == 5
