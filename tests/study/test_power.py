"""What a study can find, against figures that are published and tests that are simulated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hycam.data.recipe import DataRecipe, SplitRecipe
from hycam.study.plan import Plan
from hycam.study.power import POWER, power, power_lines, replicates, smallest
from hycam.study.recipe import SweepRecipe
from hycam.study.significance import corrected_t
from study.factory import TASKS, plan_of, study_of, sweep_evaluation

REPLICATES = DataRecipe(tasks=list(TASKS), split=SplitRecipe("disjoint", replicates=5, validation_rows=2, test_rows=6))


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_one_paired_test_needs_the_published_sample(effect: float, n: int) -> None:
    """G*Power 3 (Faul et al. 2007), two-sided paired t at 5 %, power 80 %, of a small, medium and large effect."""
    assert power(effect, n - 1, tests=1) < 0.8 <= power(effect, n, tests=1)


@pytest.mark.parametrize(("n", "tests", "to_train"), [(5, 4, 0.0), (8, 1, 0.0), (3, 2, 0.0), (5, 4, 1 / 7)])
def test_the_smallest_difference_is_found_nine_times_in_ten_where_holm_begins(
    n: int, tests: int, to_train: float
) -> None:
    """As the t tests see it: what each fold has of its own has variance 1, and what all share ``to_train``."""
    generator = np.random.default_rng(7)
    runs = 20_000
    drawn = generator.normal(size=(runs, n)) + math.sqrt(to_train) * generator.normal(size=(runs, 1))
    drawn += smallest(n, tests, to_train)
    error = np.sqrt((1 / n + to_train) * drawn.var(axis=1, ddof=1))
    p = 2 * stats.t.sf(np.abs(drawn.mean(axis=1) / error), n - 1)
    assert p[0] == pytest.approx(corrected_t(drawn[0].tolist(), to_train).p)
    assert np.mean(tests * p < 0.05) == pytest.approx(POWER, abs=4 * math.sqrt(0.9 * 0.1 / runs))


def test_the_fewest_replicates_reach_the_power_and_one_fewer_do_not() -> None:
    for difference, spread in ((0.01, 0.006), (0.003, 0.006), (0.02, 0.001)):
        n = replicates(difference, spread, tests=4)
        assert power(math.log(1 + difference) / spread, n, 4) >= POWER
        assert n == 2 or power(math.log(1 + difference) / spread, n - 1, 4) < POWER
    assert replicates(0.003, 0.0, tests=1) == 2


def planned(finished: int, **changes: Any) -> Plan:
    """A study whose differences to LoRA and MultiLoRA spread over replicates by 0.5 and 1 % on every task."""
    apart = {"HyCAM": 0.0, "LoRA": 0.005, "MultiLoRA": 0.01, "Full Finetune": 0.5}
    shift = np.array([-1.0, 1.0, 0.5, -1.5, 1.0])
    shift /= shift.std(ddof=1)
    return plan_of(
        study_of(tuple(apart), **{"data": REPLICATES, **changes}),
        lambda cell: dict.fromkeys(TASKS, 1 + apart[cell.method] * shift[cell.fold]) if cell.fold < finished else None,
    )


def test_a_plan_says_its_family_what_it_finds_and_what_more_replicates_would() -> None:
    family, found, needed = power_lines(planned(5))
    assert family == (
        "Primary family, 2 comparisons over all tasks: HyCAM against LoRA; MultiLoRA. All others are secondary."
    )
    low, high = (100 * math.expm1(spread * smallest(5, 2)) for spread in (0.005, 0.01))
    assert "5 replicates and the spread of the finished cells (standard deviation of 5 paired" in found
    assert (
        f"0.50 to 1.01 %), the primary family finds, nine times in ten, a difference of {low:.2f} to {high:.2f} %."
        in (found)
    )
    assert f"1 %, {replicates(0.01, 0.005, 2)} to {replicates(0.01, 0.01, 2)}; " in needed


def test_overlapping_folds_have_the_corrected_t_and_no_number_that_would_be_enough() -> None:
    data = DataRecipe(tasks=list(TASKS))
    lines = power_lines(planned(5, data=data))
    assert len(lines) == 2
    assert f"{100 * math.expm1(0.005 * smallest(5, 2, 1 / 7)):.2f} to" in lines[1]
    assert "5 folds" in lines[1]


@pytest.mark.parametrize("finished", [0, 1])
def test_without_a_spread_it_is_the_unit_and_the_line_says_what_is_missing(finished: int) -> None:
    _, line = power_lines(planned(finished))
    assert f"a difference of {smallest(5, 2):.1f} standard deviations of the paired differences" in line
    assert "Two finished cells of two of its methods" in line


def test_a_study_that_cannot_test_says_so() -> None:
    assert "the study has one" in power_lines(planned(1, folds=[0]))[1]
    assert "No comparison is primary" in power_lines(planned(5, primary=[]))[0]
    assert "Primary family, 1 comparison over all tasks, train_rows 8: HyCAM" in power_lines(
        planned(0, primary=["LoRA"], vary={"data.train_rows": [8, 16]})
    )[0]  # fmt: skip
    sweep = study_of(folds=[0], sweep=SweepRecipe([1e-3]), evaluation=sweep_evaluation())
    assert power_lines(plan_of(sweep, lambda cell: None)) == []
