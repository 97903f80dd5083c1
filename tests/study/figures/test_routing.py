"""Routing, load and information as they stand in the results, of the reference before others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hycam.study.figures.routing import draw_expert_load, draw_mutual_information, draw_routing
from hycam.study.recipe import StudyMethod
from study.factory import TASKS, plan_of, routing_of, steady, study_of
from study.figures.drawn import legend, lines
from study.figures.plans import routed, seeds


def test_a_map_for_each_task_holds_its_weights_on_one_scale() -> None:
    plan = routed(layers=7)
    figure = draw_routing(plan, [])
    maps = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}
    assert list(maps) == list(TASKS)
    routing = plan.results.select(method="HyCAM", fold=0)[0].content["routing"]
    for task, image in maps.items():
        np.testing.assert_array_equal(image.get_array(), routing["tasks"][task]["weights"])
    assert len({image.get_clim() for image in maps.values()}) == 1
    assert "HyCAM" in figure.get_suptitle()
    assert "fold 0" in figure.get_suptitle()


def test_the_reference_comes_before_its_variants() -> None:
    methods = {"A variant": StudyMethod("hycam-speconly"), "HyCAM": StudyMethod("hycam")}
    plan = plan_of(study_of(methods), steady(dict.fromkeys(methods, 1.0)), routing=routing_of())
    assert draw_routing(plan, []).get_suptitle().startswith("HyCAM,")


def test_the_load_has_a_line_for_each_module_and_one_for_an_even_share() -> None:
    (axes,) = draw_expert_load(seeds(), []).axes
    found = lines(axes)
    assert list(found) == [*(f"module {k}" for k in range(1, 6)), "1/K = 0.2"]
    for k in range(5):
        np.testing.assert_allclose([y for _, y in found[f"module {k + 1}"]], 0.2 + 0.01 * (k - 2))
    assert {y for _, y in found["1/K = 0.2"]} == {0.2}


def test_information_is_the_mean_of_the_folds_with_their_range_about_it() -> None:
    plan = routed(layers=4)
    figure = draw_mutual_information(plan, [])
    (axes,) = figure.axes
    each = [one.content["routing"]["mutual_information"] for one in plan.results.select(method="HyCAM")]
    assert legend(figure) == ["HyCAM"]
    np.testing.assert_allclose([y for _, y in lines(axes)["HyCAM"]], np.mean(each, axis=0))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((np.min(each), np.max(each)))
    assert any(f"{math.log2(5):.2f}" in text.get_text() for text in axes.texts)
