"""Gain and forgetting of each setting, as means over folds, from the backbone as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hycam.study.figures.frontier import draw_frontier, paths_of
from hycam.study.results import Results
from hycam.study.tables.table import NotRun
from study.figures.drawn import legend, lines
from study.figures.plans import RATE, RATES, frontier

BACKBONE = "SmolLM2 135M"


def test_a_point_is_what_a_setting_gains_and_forgets() -> None:
    plan = frontier()
    path = {rate: (forgotten, gained) for rate, forgotten, gained in paths_of(plan)[BACKBONE, "LoRA"]}
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
    with pytest.raises(NotRun, match="the backbone as it is"):
        draw_frontier(replace(plan, results=Results(without)), [])


def test_folds_without_the_backbone_are_left_out() -> None:
    plan = frontier()
    kept = [one for one in plan.results.done if one.method != "base" or one.fold == 0]
    first = [one for one in plan.results.done if one.fold == 0]
    assert paths_of(replace(plan, results=Results(kept))) == paths_of(replace(plan, results=Results(first)))
