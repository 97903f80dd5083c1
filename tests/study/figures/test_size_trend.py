"""The gain of the reference by the size of the backbone, and its regression."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hycam.study.comparisons import compare
from hycam.study.figures.size_trend import draw_size_trend, gains_by_size
from hycam.study.tables.table import NotRun
from study.figures.plans import folds, sizes


def test_gains_are_those_of_the_comparisons_turned_to_what_is_lower() -> None:
    plan = sizes()
    comparisons = compare(plan.results, "HyCAM")
    gains = gains_by_size(plan, comparisons)
    assert list(gains["over LoRA"]) == [494_032_768, 1_543_714_304, 14_770_033_664]
    one = next(one for one in comparisons if (one.backbone, one.against, one.task) == ("Qwen 14B", "LoRA", "macro"))
    mean, low, high = gains["over LoRA"][14_770_033_664]
    assert mean == pytest.approx(100 * (1 - math.exp(one.test.mean)))
    assert (low, high) == pytest.approx((100 * (1 - math.exp(one.test.high)), 100 * (1 - math.exp(one.test.low))))
    assert low < mean < high


def test_the_line_is_the_least_squares_regression_on_the_logarithm() -> None:
    plan = sizes()
    comparisons = compare(plan.results, "HyCAM")
    (axes,) = draw_size_trend(plan, comparisons).axes
    gains = gains_by_size(plan, comparisons)
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"]
    assert len(drawn) == len(gains) == 4
    for line, of_size in zip(drawn, gains.values(), strict=True):
        x, y = np.log10(list(of_size)), np.asarray([mean for mean, *_ in of_size.values()])
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        np.testing.assert_allclose(line.get_ydata(), y.mean() + slope * (x - x.mean()))
    assert slope > 0


def test_one_backbone_is_no_trend() -> None:
    plan = folds()
    with pytest.raises(NotRun, match="two or more backbones"):
        draw_size_trend(plan, compare(plan.results, "HyCAM"))
