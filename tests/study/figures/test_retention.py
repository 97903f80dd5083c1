"""Gain and forgetting of each setting and at each validation, as means over folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hycam.study.figures.retention import draw_frontier, paths_by_rate, paths_by_step
from hycam.study.results import Result, Results
from hycam.study.tables.table import NotRun
from study.figures.drawn import legend, lines
from study.figures.plans import LEVELS, RATE, RATES, folds, frontier, watched

BACKBONE = "SmolLM2 135M"


def test_a_point_is_what_a_setting_gains_and_forgets() -> None:
    plan = frontier()
    path = {rate: (forgotten, gained) for rate, forgotten, gained in paths_by_rate(plan)[BACKBONE, "LoRA"]}
    assert list(path) == RATES
    for rate, (forgotten, gained) in path.items():
        cells = [one for one in plan.results.select(method="LoRA") if one.settings[RATE] == rate]
        base = plan.results.select(method="base")
        assert len(cells) == 2
        losses = [np.mean([one.macro["nll"] for one in group]) for group in (base, cells)]
        assert gained == pytest.approx(losses[0] - losses[1])
        away = (np.log10(rate) + 4) ** 2
        assert forgotten == pytest.approx((0.01 + 0.03) / 2 * away, abs=1e-12)


def test_a_path_goes_along_the_learning_rates_and_its_smallest_is_white() -> None:
    figure = draw_frontier(frontier(), [])
    (axes,) = figure.axes
    assert "base" not in legend(figure)
    forgotten = [x for x, _ in lines(axes)["HyCAM"]]
    assert forgotten == sorted(forgotten)
    white = [line.get_xdata()[0] for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert white == [pytest.approx(0.0, abs=1e-12)] * 5


def test_without_the_backbone_as_it_is_there_is_no_gain() -> None:
    plan = frontier()
    without = [one for one in plan.results.done if one.method != "base"]
    with pytest.raises(NotRun, match="the unadapted backbone"):
        draw_frontier(replace(plan, results=Results(without)), [])


def test_folds_without_the_backbone_are_left_out() -> None:
    plan = frontier()
    kept = [one for one in plan.results.done if one.method != "base" or one.fold == 0]
    first = [one for one in plan.results.done if one.fold == 0]
    assert paths_by_rate(replace(plan, results=Results(kept))) == paths_by_rate(replace(plan, results=Results(first)))


def test_a_point_is_what_a_method_has_gained_and_forgotten_by_a_step_that_all_folds_have() -> None:
    for label in ("LoRA", "HyCAM"):
        points = paths_by_step(watched())[BACKBONE, label]
        wanted = [(step, 0.01 * step, (LEVELS[label] - 1) * step / 100) for step in (0, 10, 20)]
        for (step, forgetting, gain), expected in zip(points, wanted, strict=True):
            assert (step, forgetting, gain) == pytest.approx(expected)


def test_without_retention_at_validations_there_is_nothing_to_draw() -> None:
    with pytest.raises(NotRun, match=r"retention\.at_validations"):
        paths_by_step(folds())


def test_a_path_that_does_not_begin_at_the_backbone_has_no_gain() -> None:
    plan = watched()
    later = [
        Result({**one.content, "curve": [line for line in one.content["curve"] if line["step"]]})
        for one in plan.results.done
    ]
    with pytest.raises(NotRun, match="before the first step"):
        paths_by_step(replace(plan, results=Results(later)))
