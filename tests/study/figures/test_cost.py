"""Perplexity against parameters and seconds, over the folds that all methods have."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hycam.study.figures.cost import draw_cost
from hycam.study.results import Results
from study.factory import plan_of, steady, study_of
from study.figures.drawn import legend, points
from study.figures.plans import LEVELS, WITH_BASE, costs, sizes, sweep


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
