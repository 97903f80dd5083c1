"""A place in a table: means over folds and seeds, and what is said where cells are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hycam.data.recipe import DataRecipe, SplitRecipe
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.tables.places import Line, Place, lines, spread_note
from hycam.study.tables.scores import PPL
from study.factory import DIVERGED, FAILED, TASKS, plan_of, steady, study_of

NLLS = {0: 1.0, 1: 1.2, 2: 1.1, 3: 1.4, 4: 1.3}


def of_fold(cell: Cell) -> dict[str, float]:
    return dict.fromkeys(TASKS, NLLS[cell.fold])


def hycam(plan: Plan, backbone: str = "SmolLM2 135M") -> Line:
    return next(line for line in lines(plan) if line.method == "HyCAM")


def test_a_perplexity_is_exp_of_the_mean_over_folds_beside_the_deviation_of_the_folds_own() -> None:
    plan = plan_of(study_of(("HyCAM",)), of_fold)
    entry = PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M"))
    nlls = np.array(list(NLLS.values()))
    assert entry.value == pytest.approx(float(np.exp(nlls.mean())), rel=1e-12)
    assert entry.text == f"{np.exp(nlls.mean()):.3f} ± {np.exp(nlls).std(ddof=1):.3f}"


def test_perplexities_whose_squares_are_no_numbers_have_an_infinite_deviation() -> None:
    plan = plan_of(study_of(("HyCAM",)), lambda cell: dict.fromkeys(TASKS, 400.0 + cell.fold))
    assert PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M")).text.endswith(" ± inf")


@pytest.mark.parametrize("lost", [None, DIVERGED, FAILED])
def test_a_mean_of_fewer_folds_says_so_and_has_no_value(lost: str | None) -> None:
    plan = plan_of(study_of(("HyCAM",)), lambda cell: lost if cell.fold in (1, 3) else of_fold(cell))
    entry = PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M"))
    kept = np.array([NLLS[fold] for fold in (0, 2, 4)])
    assert entry.text == f"{np.exp(kept.mean()):.3f} ± {np.exp(kept).std(ddof=1):.3f} (3 of 5 folds)"
    assert entry.value is None
    assert ("diverged in 2 cells" in spread_note(plan)) == (lost == DIVERGED)


@pytest.mark.parametrize(("lost", "text"), [(None, "not run"), (DIVERGED, "diverged"), (FAILED, "failed")])
def test_a_place_without_a_finished_cell_says_why(lost: str | None, text: str) -> None:
    plan = plan_of(study_of(("LoRA", "HyCAM")), lambda cell: lost if cell.method == "HyCAM" else of_fold(cell))
    entry = PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M"))
    assert (entry.text, entry.value, entry.muted) == (text, None, True)


def test_seeds_are_averaged_within_their_fold_before_the_folds_are_compared() -> None:
    study = study_of(("HyCAM",), folds=(0, 1), seeds=[1, 2, 3])
    plan = plan_of(study, lambda cell: dict.fromkeys(TASKS, 1.0 + cell.fold + 0.1 * cell.seed))
    entry = PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M"))
    folds = np.array([1.2, 2.2])
    assert entry.text == f"{math.exp(1.7):.3f} ± {np.exp(folds).std(ddof=1):.3f}"
    assert "Mean over 2 folds, each the mean of its 3 seeds" in spread_note(plan)


def test_with_one_fold_the_spread_is_that_of_the_seeds() -> None:
    study = study_of(("HyCAM",), folds=(0,), seeds=[100, 200, 300])
    plan = plan_of(study, lambda cell: dict.fromkeys(TASKS, cell.seed / 100) if cell.seed < 300 else None)
    entry = PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M"))
    assert entry.text == f"{math.exp(1.5):.3f} ± {np.exp([1, 2]).std(ddof=1):.3f} (2 of 3 seeds)"


def test_disjoint_parts_are_called_replicates() -> None:
    split = SplitRecipe("disjoint", replicates=5, validation_rows=5, test_rows=5)
    study = study_of(("HyCAM",), data=DataRecipe(tasks=list(TASKS), split=split))
    plan = plan_of(study, lambda cell: of_fold(cell) if cell.fold else None)
    assert PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M")).text.endswith("(4 of 5 replicates)")
    assert "Mean over 5 replicates" in spread_note(plan)


def test_a_varied_setting_makes_lines_of_its_own() -> None:
    study = study_of(("LoRA", "HyCAM"), vary={"data.train_rows": [8, 32]}, folds=(0,))
    plan = plan_of(study, steady({"LoRA": 1.1, "HyCAM": 1.0}))
    assert [line.label for line in lines(plan)] == [
        "LoRA, train_rows 8", "LoRA, train_rows 32", "HyCAM, train_rows 8", "HyCAM, train_rows 32"
    ]  # fmt: skip
    assert all(len(Place(plan, line, "SmolLM2 135M").planned) == 1 for line in lines(plan))


def test_trainings_on_one_task_alone_are_places_of_their_own() -> None:
    plan = plan_of(study_of(("HyCAM",), folds=(0, 1), single_tasks=True), of_fold)
    (line,) = lines(plan)
    assert len(Place(plan, line, "SmolLM2 135M").done) == 2
    assert {one.task for one in Place(plan, line, "SmolLM2 135M", "dolly").done} == {"dolly"}


def test_a_loss_without_a_perplexity_counts_as_missing() -> None:
    plan = plan_of(study_of(("HyCAM",)), of_fold)
    first = plan.results.done[0].content["evaluation"]
    first["macro"] = {**first["macro"], "perplexity": None, "nll": 800.0}
    assert PPL.entry(Place(plan, hycam(plan), "SmolLM2 135M")).text.endswith("(4 of 5 folds)")
