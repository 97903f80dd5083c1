"""The trials of a sweep."""

from __future__ import annotations

import pytest

from hycam.study.cells import Cell
from hycam.study.recipe import StudyMethod, StudyRecipe, SweepRecipe
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import DIVERGED, TASKS, plan_of, steady, study_of, sweep_evaluation

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
    with pytest.raises(NotRun, match="no sweep"):
        TABLES["learning_rates"](plan_of(study_of(("HyCAM",)), steady({"HyCAM": 1.0})), [])
    with pytest.raises(NotRun, match="No trial of this sweep"):
        TABLES["learning_rates"](plan_of(sweep(), lambda cell: None), [])
