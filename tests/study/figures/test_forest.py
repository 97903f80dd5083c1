"""Every comparison stands in the forest with its intervals and verdict, in percent of perplexity."""

from __future__ import annotations

import math

import pytest

from hycam.study.comparisons import compare
from hycam.study.figures.forest import draw_forest, percent
from hycam.study.significance import MACRO
from hycam.study.tables.table import NotRun
from study.factory import TASKS, plan_of, steady, study_of
from study.figures.drawn import legend
from study.figures.plans import LEVELS, folds, sizes, sweep


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
    comparisons = compare(plan.results, "HyCAM")
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
        mean, low, high = percent(one.test)
        assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]  {one.verdict}".replace("-", "−") in shown


def test_the_margin_is_shaded_on_both_sides_of_zero() -> None:
    plan = folds()
    (axes,) = draw_forest(plan, compare(plan.results, "HyCAM")).axes
    shade = next(patch for patch in axes.patches if patch.get_label() == "within 1 %")
    ends = shade.get_x(), shade.get_x() + shade.get_width()
    assert ends == pytest.approx((100 * (1 / 1.01 - 1), 1.0))


def test_with_one_fold_the_bootstrap_stands_alone_and_without_a_verdict() -> None:
    plan = plan_of(study_of(folds=[0]), steady(LEVELS), rows=20)
    figure = draw_forest(plan, compare(plan.results, "HyCAM"))
    assert "t interval" not in legend(figure)
    assert not any("undecided" in text.get_text() for text in figure.axes[0].texts)


def test_with_many_comparisons_only_the_means_over_tasks_are_shown() -> None:
    plan = sizes()
    comparisons = compare(plan.results, "HyCAM")
    (axes,) = draw_forest(plan, comparisons).axes
    macro = [one for one in comparisons if one.task == MACRO]
    assert len(bars(axes, "t interval")) == len(macro) == 12 < len(comparisons)
    assert "against LoRA, Qwen 14B" in [text.get_text() for text in axes.texts]


def test_a_sweep_is_no_comparison_of_methods() -> None:
    plan = sweep()
    with pytest.raises(NotRun, match="sweep"):
        draw_forest(plan, compare(plan.results, "HyCAM"))
