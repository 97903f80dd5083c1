"""The forest of comparisons, and the gain by the size of the backbone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hycam.study.comparisons import compare
from hycam.study.figures.differences import draw_forest, draw_size_trend, gains_by_size, in_percent
from hycam.study.significance import MACRO
from hycam.study.tables.table import NotRun
from study.factory import TASKS, plan_of, steady, study_of
from study.figures.drawn import legend
from study.figures.plans import LEVELS, WITH_BASE, folds, sizes, sweep


def bars(axes, label: str) -> list[tuple[float, float, float]]:
    """Mean and ends of each interval of a kind, from the top."""
    colour = next(one for one in axes.containers if one.get_label() == label).lines[0].get_color()
    found = [one for one in axes.containers if one.lines[0].get_color() == colour]
    found.sort(key=lambda one: one.lines[0].get_ydata()[0])
    return [
        (one.lines[0].get_xdata()[0], *(end[0] for end in one.lines[2][0].get_segments()[0])) for one in found
    ]  # fmt: skip


def test_a_row_for_each_comparison_holds_both_intervals() -> None:
    plan = folds()
    comparisons = compare(plan.results, plan.primary)
    (axes,) = draw_forest(plan, comparisons).axes
    assert len(comparisons) == 4 * 6
    for label, kind in (("t interval", "test"), ("bootstrap over the rows of these adapters", "bootstrap")):
        expected = [
            tuple(100 * (math.exp(value) - 1) for value in (found.mean, found.low, found.high))
            for found in (getattr(one, kind) for one in comparisons)
        ]
        assert bars(axes, label) == [pytest.approx(one) for one in expected]
    shown = [text.get_text() for text in axes.texts]
    assert [words for words in shown if words.startswith("against")] == [f"against {name}" for name in list(LEVELS)[:4]]
    assert shown.count("mean over tasks") == shown.count(TASKS[0]) == 4
    for one in comparisons:
        mean, low, high = in_percent(one.test)
        family = " (primary)" if (one.against, one.task) in [(name, MACRO) for name in plan.primary.against] else ""
        assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]  {one.verdict}{family}".replace("-", "−") in shown


def test_the_unadapted_backbone_has_an_axis_of_its_own_and_squeezes_no_other_interval() -> None:
    plan = plan_of(study_of(WITH_BASE), steady(LEVELS), rows=20)
    adapted, base = draw_forest(plan, compare(plan.results, plan.primary)).axes
    assert [text.get_text() for text in base.texts if text.get_text().startswith("against")] == ["against base"]
    assert len(bars(adapted, "t interval")) == 4 * 6
    assert len(bars(base, "t interval")) == 6
    widest = max(abs(end) for _, *ends in bars(adapted, "t interval") for end in ends)
    assert widest < adapted.get_xlim()[1] < 1.1 * widest
    assert base.get_xlim()[1] > 30


def test_the_margin_is_shaded_on_both_sides_of_zero() -> None:
    plan = folds()
    (axes,) = draw_forest(plan, compare(plan.results, plan.primary)).axes
    shade = next(patch for patch in axes.patches if patch.get_label() == "within 1 %")
    ends = shade.get_x(), shade.get_x() + shade.get_width()
    assert ends == pytest.approx((100 * (1 / 1.01 - 1), 1.0))


def test_with_one_fold_the_bootstrap_stands_alone_and_without_a_verdict() -> None:
    plan = plan_of(study_of(folds=[0]), steady(LEVELS), rows=20)
    figure = draw_forest(plan, compare(plan.results, plan.primary))
    assert "t interval" not in legend(figure)
    assert not any("undecided" in text.get_text() for text in figure.axes[0].texts)


def test_with_many_comparisons_only_the_means_over_tasks_are_shown() -> None:
    plan = sizes()
    comparisons = compare(plan.results, plan.primary)
    (axes,) = draw_forest(plan, comparisons).axes
    macro = [one for one in comparisons if one.task == MACRO]
    assert len(bars(axes, "t interval")) == len(macro) == 12 < len(comparisons)
    assert "against LoRA, Qwen 14B" in [text.get_text() for text in axes.texts]


def test_a_sweep_is_no_comparison_of_methods() -> None:
    plan = sweep()
    with pytest.raises(NotRun, match="sweep"):
        draw_forest(plan, compare(plan.results, plan.primary))


def test_gains_are_those_of_the_comparisons_turned_to_what_is_lower() -> None:
    plan = sizes()
    comparisons = compare(plan.results, plan.primary)
    gains = gains_by_size(plan, comparisons)
    assert list(gains["over LoRA"]) == [494_032_768, 1_543_714_304, 14_770_033_664]
    one = next(one for one in comparisons if (one.backbone, one.against, one.task) == ("Qwen 14B", "LoRA", "macro"))
    mean, low, high = gains["over LoRA"][14_770_033_664]
    assert mean == pytest.approx(100 * (1 - math.exp(one.test.mean)))
    assert (low, high) == pytest.approx((100 * (1 - math.exp(one.test.high)), 100 * (1 - math.exp(one.test.low))))
    assert low < mean < high


def test_the_line_is_the_least_squares_regression_on_the_logarithm() -> None:
    plan = sizes()
    comparisons = compare(plan.results, plan.primary)
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
        draw_size_trend(plan, compare(plan.results, plan.primary))
