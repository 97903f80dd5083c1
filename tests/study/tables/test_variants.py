"""Variants of HyCAM, what tasks lose by being trained together, and the trials of a sweep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hycam.study.cells import Cell
from hycam.study.recipe import StudyMethod, StudyRecipe, SweepRecipe
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import DIVERGED, TASKS, plan_of, steady, study_of, sweep_evaluation, tasks_of

VARIANTS = {
    "Shared-CAM-Only": StudyMethod("hycam-shared-only"),
    "HyCAM-SpecOnly": StudyMethod("hycam-speconly"),
    "HyCAM": StudyMethod("hycam"),
    "LoRA": StudyMethod("lora"),
}
PERPLEXITY = {"Shared-CAM-Only": 3.3, "HyCAM-SpecOnly": 2.7, "HyCAM": 3.0, "LoRA": 2.0}
PARAMETERS = {"Shared-CAM-Only": 500, "HyCAM-SpecOnly": 600, "HyCAM": 1000, "LoRA": 1010}


def nlls(cell: Cell) -> dict[str, float]:
    return dict.fromkeys(TASKS, math.log(PERPLEXITY[cell.method]))


def parameters(cell: Cell) -> dict[str, int]:
    return {"trainable_parameters": PARAMETERS.get(cell.method)}


def test_variants_stand_beside_the_reference_without_the_other_methods() -> None:
    table = TABLES["ablations"](plan_of(study_of(VARIANTS), nlls, training=parameters), [])
    assert table.columns == ["Variant", "Trainable parameters", "PPL", "Against HyCAM, %", "over rows"]
    assert [row[0].text for row in table.rows] == ["Shared-CAM-Only", "HyCAM-SpecOnly", "HyCAM"]
    assert [row[1].text for row in table.rows] == ["500", "600", "1,000"]
    assert [row[3].text for row in table.rows] == ["+10.00", "-10.00", "–"]
    for row, difference in zip(table.rows[:2], (10, -10), strict=True):
        low, high = (float(text) for text in row[4].text.strip("[]").split(", "))
        assert low <= difference <= high
    assert table.rows[2][4].text == "–"
    assert [row[2].best for row in table.rows] == [False, True, False]


def test_the_papers_ablations_stand_beside_ours_on_its_backbone() -> None:
    table = TABLES["ablations"](plan_of(study_of(VARIANTS, backbones={"Llama 2 7B": "x"}), nlls), [])
    assert table.columns[-2:] == ["Arithmetic mean", "Paper"]
    assert [row[-1].text for row in table.rows] == ["3.129", "3.216", "3.081"]
    assert [row[-2].value for row in table.rows] == pytest.approx([3.3, 2.7, 3.0])


def test_values_of_a_setting_are_variants_too_and_one_variant_is_none() -> None:
    study = study_of(("HyCAM",), vary={"method.config.num_specialized": [1, 5]})
    table = TABLES["ablations"](plan_of(study, nlls), [])
    assert [row[0].text for row in table.rows] == ["HyCAM, num_specialized 1", "HyCAM, num_specialized 5"]
    assert table.columns[-2] == "Against HyCAM, num_specialized 1, %"
    assert [row[-2].text for row in table.rows] == ["–", "+0.00"]
    with pytest.raises(NotRun, match="no two variants"):
        TABLES["ablations"](plan_of(study_of(("LoRA", "HyCAM")), nlls), [])


def test_settings_that_were_scored_on_other_tasks_have_no_interval() -> None:
    study = study_of(("HyCAM",), vary={"data.tasks": [["dolly"], ["dolly", "webgpt"]]})
    table = TABLES["ablations"](plan_of(study, lambda cell: dict.fromkeys(tasks_of(cell), 1.0)), [])
    assert [row[-1].text for row in table.rows] == ["–", "–"]


# Joint minus single, by method and task; and how a fold changes it.
LOST = {"LoRA": [0.05, 0.04, 0.03, -0.02, 0.01], "HyCAM": [0.02, 0.05, 0.01, -0.03, 0.01]}
OF_FOLD = [0.0, 0.002, -0.002, 0.004, -0.004]


def interfering(cell: Cell) -> dict[str, float]:
    joint = {task: 1.0 + 0.1 * at + LOST[cell.method][at] + OF_FOLD[cell.fold] for at, task in enumerate(TASKS)}
    if cell.task is None:
        return joint
    return {task: 1.0 + 0.1 * at if task == cell.task else 3.0 for at, task in enumerate(TASKS)}


def test_interference_is_joint_minus_single_on_the_same_fold() -> None:
    table = TABLES["interference"](plan_of(study_of(tuple(LOST), single_tasks=True), interfering), [])
    assert table.columns == ["Method", *TASKS, "Mean", "Over rows"]
    for row, (label, lost) in zip(table.rows, LOST.items(), strict=True):
        assert row[0].text == label
        assert [entry.value for entry in row[1:-1]] == pytest.approx([*lost, np.mean(lost)], abs=1e-12)
        assert row[1].text == f"{lost[0]:+.4f} ± {np.std(OF_FOLD, ddof=1):.4f}"
        low, high = (float(text) for text in row[-1].text.strip("[]").split(", "))
        assert low <= np.mean(lost) + 5e-5 and high >= np.mean(lost) - 5e-5 and high - low < 0.01
    assert [entry.best for entry in table.rows[1][1:]] == [True, False, True, True, False, True, False]


def test_a_fold_without_its_joint_or_its_single_training_is_left_out_and_said() -> None:
    def partly(cell: Cell) -> dict[str, float] | None:
        is_joint = (cell.method, cell.task, cell.fold) == ("HyCAM", None, 0)
        is_single = (cell.method, cell.task, cell.fold) == ("HyCAM", "dolly", 1)
        return None if is_joint or is_single else interfering(cell)

    table = TABLES["interference"](plan_of(study_of(tuple(LOST), single_tasks=True), partly), [])
    texts = [entry.text for entry in table.rows[1]]
    assert texts[1].endswith("(4 of 5 folds)")
    assert texts[3].endswith("(3 of 5 folds)")
    assert texts[-2].endswith("(3 of 5 folds)")
    assert texts[-1].startswith("[")


def test_without_trainings_on_one_task_there_is_nothing_to_subtract() -> None:
    with pytest.raises(NotRun, match="single_tasks"):
        TABLES["interference"](plan_of(study_of(("HyCAM",)), steady({"HyCAM": 1.0})), [])
    joint = plan_of(study_of(("HyCAM",), single_tasks=True), lambda cell: None if cell.task else interfering(cell))
    with pytest.raises(NotRun, match="No cell with a single task"):
        TABLES["interference"](joint, [])


LOSSES = {
    ("LoRA", 1e-3): 1.2, ("LoRA", 3e-3): 1.1, ("LoRA", 1e-2): DIVERGED,
    ("HyCAM", 1e-3): 1.3, ("HyCAM", 3e-3): 1.15, ("HyCAM", 1e-2): 1.25,
    ("HyCAM, B x 10", 1e-3): 1.05, ("HyCAM, B x 10", 3e-3): 1.18, ("HyCAM, B x 10", 1e-2): None,
}  # fmt: skip


def sweep() -> StudyRecipe:
    variant = StudyMethod("hycam", {"r": 32}, variant_of="HyCAM")
    methods = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
    return study_of({**methods, "HyCAM, B x 10": variant}, folds=(0,), evaluation=sweep_evaluation(),
                    sweep=SweepRecipe([1e-3, 3e-3, 1e-2]))  # fmt: skip


def losses(cell: Cell) -> dict[str, float] | str | None:
    if cell.method == "Base":
        return dict.fromkeys(TASKS, 2.0)
    found = LOSSES[cell.method, cell.settings["training.learning_rate"]]
    return dict.fromkeys(TASKS, found) if isinstance(found, float) else found


def test_every_trial_is_shown_and_what_is_best_of_a_method_with_its_variants() -> None:
    table = TABLES["learning_rates"](plan_of(sweep(), losses), [])
    assert table.columns == ["Method", "0.001", "0.003", "0.01", "Best", "Trials"]
    assert {row[0].text: [entry.text for entry in row[1:]] for row in table.rows} == {
        "LoRA": ["1.2000", "1.1000", "diverged", "0.003", "3"],
        "HyCAM": ["1.3000", "1.1500", "1.2500", "", ""],
        "HyCAM, B x 10": ["1.0500", "1.1800", "not run", "0.001, at an edge", "5"],
    }
    best = [(row[0].text, at) for row in table.rows for at, entry in enumerate(row) if entry.best]
    assert best == [("LoRA", 2), ("HyCAM, B x 10", 1)]
    second = [(row[0].text, at) for row in table.rows for at, entry in enumerate(row) if entry.second]
    assert second == [("LoRA", 1), ("HyCAM", 2)]


def test_a_method_all_of_whose_trials_diverged_has_no_best_rate() -> None:
    plan = plan_of(sweep(), lambda cell: DIVERGED if cell.method == "LoRA" else losses(cell))
    row = next(row for row in TABLES["learning_rates"](plan, []).rows if row[0].text == "LoRA")
    assert [entry.text for entry in row[1:]] == ["diverged", "diverged", "diverged", "all diverged", "3"]


def test_another_study_says_where_its_rates_are_from() -> None:
    with pytest.raises(NotRun, match="not a sweep"):
        TABLES["learning_rates"](plan_of(study_of(("HyCAM",)), steady({"HyCAM": 1.0})), [])
    with pytest.raises(NotRun, match="No trial of this sweep"):
        TABLES["learning_rates"](plan_of(sweep(), lambda cell: None), [])
