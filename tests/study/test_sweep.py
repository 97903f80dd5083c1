"""The search for learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from hycam.errors import HycamError
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod, StudyRecipe, SweepRecipe
from hycam.study.sweep import RATE, Best, best, extensions, next_rate, rates
from study.factory import DIVERGED, FAILED, plan_of, study_of, sweep_evaluation

GRID = [1e-4, 1e-3, 1e-2]


def sweep(
    nll: Callable[[str, float, int], float | str | None], methods: dict[str, StudyMethod] | None = None, **changes
) -> Plan:
    methods = methods or {"LoRA": StudyMethod("lora")}
    study = study_of(methods, ("dolly",), **{"folds": [0], "sweep": SweepRecipe(GRID), "evaluation": sweep_evaluation(),
                                             **changes})  # fmt: skip

    def of(cell):
        value = nll(cell.method, cell.settings[RATE], cell.fold)
        return {"dolly": value} if isinstance(value, float) else value

    return plan_of(study, of)


def found(plan: Plan) -> Best:
    (one,) = best(plan.study, plan.results.settled).values()
    return one


def wanted(plan: Plan, unfinished: tuple = ()) -> list[tuple[str, float]]:
    return [(label, rate) for _, label, rate in extensions(plan.study, plan.results.settled, unfinished)]


def test_the_best_rate_has_the_lowest_mean_over_folds() -> None:
    by_fold = {1e-4: (1.0, 9.0), 1e-3: (3.0, 3.0), 1e-2: (5.0, 2.0)}
    one = found(sweep(lambda _, rate, fold: by_fold[rate][fold], folds=[0, 1]))
    assert one == Best("LoRA", 1e-3, 3.0, trials=3, at_edge=False)


@pytest.mark.parametrize(("best_at", "next_one"), [(1e-4, 3e-5), (1e-3, None), (1e-2, 3e-2)])
def test_a_best_rate_at_an_edge_asks_for_its_neighbour(best_at: float, next_one: float | None) -> None:
    plan = sweep(lambda _, rate, __: 1.0 + abs(math.log10(rate / best_at)))
    assert found(plan).at_edge == (next_one is not None)
    assert wanted(plan) == ([("LoRA", next_one)] if next_one else [])
    assert wanted(plan, unfinished=(("SmolLM2 135M", "LoRA"),)) == []


def test_the_grid_grows_to_so_many_rates_and_no_further() -> None:
    plan = sweep(lambda _, rate, __: 1.0 + rate, sweep=SweepRecipe(GRID, most_trials=3))
    assert found(plan).at_edge
    assert wanted(plan) == []


def test_a_diverged_trial_lost_and_a_failed_one_does_not_count() -> None:
    plan = sweep(lambda _, rate, __: {1e-4: 2.0, 1e-3: FAILED, 1e-2: DIVERGED}[rate])
    assert found(plan) == Best("LoRA", 1e-4, 2.0, trials=2, at_edge=True)


def test_where_every_trial_diverged_smaller_rates_are_tried() -> None:
    plan = sweep(lambda *_: DIVERGED)
    assert found(plan) == Best("LoRA", 1e-4, math.inf, trials=3, at_edge=True)
    assert wanted(plan) == [("LoRA", 3e-5)]


def test_the_trials_of_a_variant_are_trials_of_its_method() -> None:
    methods = {"HyCAM": StudyMethod("hycam"), "B x 3": StudyMethod("hycam", {"r": 8}, variant_of="HyCAM")}
    nll = {"HyCAM": {1e-4: 3.0, 1e-3: 2.0, 1e-2: 3.0}, "B x 3": {1e-4: 3.0, 1e-3: 2.5, 1e-2: 1.0}}
    plan = sweep(lambda label, rate, _: nll[label][rate], methods)
    assert found(plan) == Best("B x 3", 1e-2, 1.0, trials=6, at_edge=True)
    assert wanted(plan) == [("B x 3", 3e-2)]


def test_rates_are_taken_over_by_the_label_of_the_best_variant_and_never_diverged_ones() -> None:
    assert rates({("a", "LoRA"): Best("LoRA x 3", 1e-3, 2.0, 3, False)}) == {("a", "LoRA x 3"): 1e-3}
    with pytest.raises(HycamError, match="Every learning rate that was tried for LoRA on a diverged, down to 3e-05"):
        rates({("a", "LoRA"): Best("LoRA", 3e-5, math.inf, 3, True)})


def test_neighbours_walk_half_decades_exactly() -> None:
    walked = [1e-5]
    while walked[-1] < 1:
        walked.append(next_rate(walked[-1], down=False))
    assert walked == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
    for below, above in pairwise(walked):
        assert next_rate(above, down=True) == below


def test_a_sweep_must_not_look_at_the_test_part() -> None:
    with pytest.raises(HycamError, match=r"set evaluation.part to validation, never to test"):
        StudyRecipe(sweep=SweepRecipe([1e-3]))
