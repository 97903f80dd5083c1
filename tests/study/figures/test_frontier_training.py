"""Gain and forgetting at each validation, as means over folds, from the validation before the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hycam.study.figures.frontier_training import draw_frontier_training, paths_of
from hycam.study.results import Result, Results
from hycam.study.tables.table import NotRun
from study.figures.drawn import legend, lines
from study.figures.plans import LEVELS, folds, watched

BACKBONE = "SmolLM2 135M"


def test_a_point_is_what_a_method_has_gained_and_forgotten_by_a_step_that_all_folds_have() -> None:
    for label in ("LoRA", "HyCAM"):
        points = paths_of(watched())[BACKBONE, label]
        wanted = [(step, 0.01 * step, (LEVELS[label] - 1) * step / 100) for step in (0, 10, 20)]
        for (step, forgetting, gain), expected in zip(points, wanted, strict=True):
            assert (step, forgetting, gain) == pytest.approx(expected)


def test_a_path_begins_at_the_backbone_as_it_is() -> None:
    figure = draw_frontier_training(watched(), [])
    (axes,) = figure.axes
    assert "base" not in legend(figure)
    assert all(path[0] == (0.0, 0.0) and len(path) == 3 for name, path in lines(axes).items() if name in LEVELS)


def test_without_retention_at_validations_there_is_nothing_to_draw() -> None:
    with pytest.raises(NotRun, match=r"retention\.at_validations"):
        paths_of(folds())


def test_a_path_that_does_not_begin_at_the_backbone_has_no_gain() -> None:
    plan = watched()
    later = [
        Result({**one.content, "curve": [line for line in one.content["curve"] if line["step"]]})
        for one in plan.results.done
    ]
    with pytest.raises(NotRun, match="before the first step"):
        paths_of(replace(plan, results=Results(later)))
