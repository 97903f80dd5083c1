from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hycam.errors import HycamError
from hycam.study import significance
from hycam.study.significance import (
    MACRO,
    TTest,
    corrected_t,
    equivalent,
    holm,
    paired_t,
    row_bootstrap,
    tost,
)

LOG_MARGIN = math.log(1.01)


def draws(shape: tuple[int, ...] | int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def seventh(differences: list[float]) -> TTest:
    """The corrected t of the five folds."""
    return corrected_t(differences, 1 / 7)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_paired_t_is_that_of_scipy(n: int) -> None:
    one, other = 2 + draws(n, seed=1), 2.4 + draws(n, seed=2)
    expected = stats.ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    found = paired_t((one - other).tolist())
    assert (found.n, found.df, found.kind) == (n, expected.df, "paired t")
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert (found.mean, found.low, found.high) == pytest.approx(((one - other).mean(), *interval), rel=1e-10)
    assert found.error == pytest.approx((one - other).std(ddof=1) / math.sqrt(n), rel=1e-10)


def test_the_corrected_t_adds_the_ratio_of_test_to_training_rows_to_the_variance() -> None:
    """Against the formula, with the quantile of four degrees of freedom from a table."""
    differences = [-0.012, -0.003, -0.020, 0.004, -0.009]
    mean = sum(differences) / 5
    variance = sum((one - mean) ** 2 for one in differences) / 4
    error = math.sqrt((1 / 5 + 1 / 7) * variance)
    found = seventh(differences)
    assert (found.df, found.n, found.kind) == (4, 5, "corrected t")
    assert found.error == pytest.approx(error, rel=1e-9)
    assert found.high - found.mean == pytest.approx(2.776445 * error, rel=1e-6)
    # Student's distribution with four degrees of freedom has a closed form.
    t = abs(mean) / error
    x = t / math.sqrt(4 + t**2)
    assert found.p == pytest.approx(1 - (1.5 * x - 0.5 * x**3), rel=1e-9)


@pytest.mark.parametrize(("test", "nothing_shared"), [(paired_t, True), (seventh, False)])
def test_intervals_of_folds_that_share_rows_hold_what_they_promise_only_when_corrected(test, nothing_shared) -> None:
    """Five differences with the correlation n_test / (n_test + n_train) = 1/8, which the correction assumes."""
    correlation = 1 / 8
    shared, own = draws((2000, 1), seed=3), draws((2000, 5), seed=4)
    differences = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    held = np.mean([found.low <= 0 <= found.high for found in map(test, differences.tolist())])
    if nothing_shared:
        assert held < 0.92
    else:
        assert held == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_methods_that_are_identical_have_no_difference_and_a_p_of_one() -> None:
    for test in (paired_t([0.0] * 5), seventh([0.0] * 5)):
        assert (test.mean, test.low, test.high, test.p) == (0, 0, 0, 1)
        assert equivalent(test, 0.01)


@pytest.mark.parametrize("test", [paired_t, seventh])
@pytest.mark.parametrize("differences", [[], [0.1]])
def test_a_t_test_of_less_than_two_differences_is_refused(test, differences: list[float]) -> None:
    with pytest.raises(HycamError, match="at least two differences"):
        test(differences)


@pytest.mark.parametrize("mean", [-0.02, -0.008, 0.0, 0.003, 0.0101])
def test_equivalence_is_two_one_sided_tests_each_as_scipy_has_it(mean: float) -> None:
    differences = mean + 0.004 * draws(6, seed=5)
    above = stats.ttest_1samp(differences, -LOG_MARGIN, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, LOG_MARGIN, alternative="less").pvalue
    test = paired_t(differences.tolist())
    assert tost(test, 0.01) == pytest.approx(max(above, below), rel=1e-8)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.90)
    assert equivalent(test, 0.01) == (interval.low > -LOG_MARGIN and interval.high < LOG_MARGIN)


def test_holm_multiplies_each_p_by_those_left_and_never_lets_it_fall() -> None:
    # In order: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04, of which the last is raised to what stands before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.4, 0.5]) == [1, 1, 1]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


def test_holm_finds_something_among_true_nulls_no_more_often_than_promised() -> None:
    p = np.random.default_rng(6).uniform(size=(2000, 10))
    false_alarms = np.mean([min(holm(row.tolist())) < 0.05 for row in p])
    assert false_alarms == pytest.approx(0.05, abs=0.015)


def made_rows(rows: int, seed: int, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Differences of NLL of rows of 5 to 60 tokens, about ``mean`` per token."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 60, rows)
    return tokens * (mean + 0.3 * generator.normal(size=rows)), tokens


def test_the_bootstrap_recomputes_the_loss_per_token_of_each_resample() -> None:
    """Against a loop that draws each task's rows one resample after another."""
    rows = {"short": made_rows(9, seed=7, mean=-0.1), "long": made_rows(14, seed=8)}
    found = row_bootstrap(rows, resamples=400, seed=9)
    generator = np.random.default_rng(9)
    by_task = {}
    for name, (difference, tokens) in rows.items():
        drawn = [generator.integers(len(tokens), size=len(tokens)) for _ in range(400)]
        by_task[name] = [sum(difference[place]) / sum(tokens[place]) for place in drawn]
    by_task[MACRO] = [(a + b) / 2 for a, b in zip(*by_task.values(), strict=True)]
    for name, expected in by_task.items():
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))
        below = sum(value <= 0 for value in expected)
        assert found[name].p == pytest.approx(min(1, 2 * (min(below, 400 - below) + 1) / 401))
    means = [difference.sum() / tokens.sum() for difference, tokens in rows.values()]
    assert [found[name].mean for name in (*rows, MACRO)] == pytest.approx([*means, sum(means) / 2])
    assert [found[name].rows for name in (*rows, MACRO)] == [9, 14, 23]


def test_a_bootstrap_in_many_chunks_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"one": made_rows(20, seed=10)}
    whole = row_bootstrap(rows, resamples=500)
    monkeypatch.setattr(significance, "_DRAWN_AT_ONCE", 61)
    assert row_bootstrap(rows, resamples=500) == whole


def test_rows_without_a_difference_give_a_bootstrap_p_of_one() -> None:
    found = row_bootstrap({"one": (np.zeros(30), np.full(30, 8))}, 500)["one"]
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_difference_on_every_row_has_the_smallest_p_that_the_resamples_allow() -> None:
    found = row_bootstrap({"one": (np.linspace(-2, -1, 30), np.full(30, 8))}, 999)["one"]
    assert found.p == pytest.approx(0.002)
    assert found.high < 0


def test_bootstrap_intervals_hold_what_they_promise() -> None:
    made = (row_bootstrap({"a": made_rows(70, seed), "b": made_rows(70, 5000 + seed)}, 400) for seed in range(400))
    held = np.mean([found[MACRO].low <= 0 <= found[MACRO].high for found in made])
    assert 0.91 < held < 0.98
