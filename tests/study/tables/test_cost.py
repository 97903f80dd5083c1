"""What methods cost, how soon they are as good as LoRA, and where they are after the same time."""

from __future__ import annotations

from typing import Any

import pytest

from hycam.study.cells import Cell
from hycam.study.recipe import StudyMethod
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import DIVERGED, plan_of, steady, study_of

NLLS = {"LoRA": 1.1, "MultiLoRA": 1.2, "HyCAM": 1.0}

# Validation losses at steps 10, 20, 30 and 40. HyCAM's steps take twice as long as the others'.
CURVES = {"LoRA": [1.5, 1.3, 1.2, 1.25], "MultiLoRA": [1.6, 1.5, 1.4, 1.3], "HyCAM": [1.4, 1.2, 1.1, 1.0]}
SECONDS = {"LoRA": 1.0, "MultiLoRA": 1.0, "HyCAM": 2.0}


def curve(cell: Cell) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for at, loss in enumerate(CURVES[cell.method], 1):
        elapsed = 10 * at * SECONDS[cell.method] + cell.fold
        lines += [{"step": 10 * at, "elapsed": elapsed - 1, "loss": 9.0}]
        lines += [{"step": 10 * at, "elapsed": elapsed, "eval_loss": loss}]
    return lines


def test_cost_is_taken_from_the_training_of_each_fold() -> None:
    plan = plan_of(study_of(("LoRA", "HyCAM")), steady(NLLS), curve=curve, training=lambda cell: {
        "tokens": 1000 * (cell.fold + 1), "seconds": 10.0, "peak_memory_bytes": 3 * 2**29, "adapter_bytes": 5 * 2**19,
        "trainable_parameters": 1234567,
    })  # fmt: skip
    table = TABLES["cost"](plan, [])
    row = dict(zip(table.columns, (entry.text for entry in table.rows[1]), strict=True))
    assert row["Trainable parameters"] == "1,234,567"
    assert row["Tokens per second"] == "300 ± 158"  # of 100, 200, 300, 400, 500
    assert row["Peak memory, GiB"] == "1.50 ± 0.00"
    assert row["Saved, MiB"] == "2.5"
    assert row["Training, s"] == "10 ± 0"
    assert "Machine: 2 cores of a processor." in table.note


def test_steps_and_seconds_are_counted_to_the_first_validation_as_good_as_loras_best() -> None:
    table = TABLES["cost"](plan_of(study_of(tuple(NLLS)), steady(NLLS), curve=curve), [])
    shown = {row[0].text: [entry.text for entry in row[-2:]] for row in table.rows}
    assert shown["LoRA"] == ["30 ± 0", "32 ± 2"]
    assert shown["HyCAM"] == ["20 ± 0", "42 ± 2"]  # 40 seconds and the fold's number
    assert shown["MultiLoRA"] == ["not reached", "not reached"]


def test_folds_that_do_not_come_there_are_said() -> None:
    def once_slower(cell: Cell) -> list[dict[str, Any]]:
        if (cell.method, cell.fold) != ("HyCAM", 1):
            return curve(cell)
        return [{**line, "eval_loss": 1.3} if "eval_loss" in line else line for line in curve(cell)]

    plan = plan_of(study_of(tuple(NLLS)), steady(NLLS), curve=once_slower)
    row = next(row for row in TABLES["cost"](plan, []).rows if row[0].text == "HyCAM")
    assert row[-2].text == "20 ± 0 (4 of 5 folds)"


def test_without_lora_nothing_is_measured_against_it() -> None:
    table = TABLES["cost"](plan_of(study_of(("MultiLoRA", "HyCAM")), steady(NLLS), curve=curve), [])
    assert table.columns[-1] == "Training, s"
    nlls = steady(NLLS)
    unfinished = plan_of(study_of(("LoRA", "HyCAM")), lambda cell: None if cell.method == "LoRA" else nlls(cell))
    assert [entry.text for entry in TABLES["cost"](unfinished, []).rows[1][-2:]] == ["–", "–"]


def test_equal_wall_time_is_the_best_validation_up_to_the_time_that_all_reached() -> None:
    table = TABLES["wall_time"](plan_of(study_of(tuple(NLLS)), steady(NLLS), curve=curve), [])
    shown = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    # The others end after 40 seconds and the fold's number, when HyCAM is at step 20 of 40.
    assert shown["LoRA"] == ["1.2000 ± 0.0000", "30 ± 0", "100 ± 0"]
    assert shown["HyCAM"][:2] == ["1.2000 ± 0.0000", "20 ± 0"]
    assert shown["HyCAM"][2].startswith("51 ")
    assert "on average SmolLM2 135M 42 s" in table.note
    assert [row[1].best for row in table.rows] == [True, False, True]


def test_equal_wall_time_takes_the_folds_that_all_have_and_leaves_out_what_never_finished() -> None:
    nlls = steady(NLLS)

    def lost(cell: Cell) -> dict[str, float] | str | None:
        if cell.method == "MultiLoRA":
            return DIVERGED
        return None if (cell.method, cell.fold) == ("HyCAM", 2) else nlls(cell)

    table = TABLES["wall_time"](plan_of(study_of(tuple(NLLS)), lost, curve=curve), [])
    shown = {row[0].text: row[1].text for row in table.rows}
    assert shown["MultiLoRA"] == "diverged"
    assert shown["LoRA"].endswith("(4 of 5 folds)")
    assert shown["HyCAM"].endswith("(4 of 5 folds)")


def test_a_method_too_slow_for_a_validation_by_then_says_so() -> None:
    def late(cell: Cell) -> list[dict[str, Any]]:
        slow = 10 if cell.method == "HyCAM" else 1
        return [{**line, "elapsed": slow * line["elapsed"]} for line in curve(cell)]

    table = TABLES["wall_time"](plan_of(study_of(tuple(NLLS)), steady(NLLS), curve=late), [])
    row = next(row for row in table.rows if row[0].text == "HyCAM")
    assert [entry.text for entry in row[1:3]] == ["no validation by then", "–"]


def test_equal_wall_time_is_between_two_methods() -> None:
    with pytest.raises(NotRun, match="least two methods"):
        TABLES["wall_time"](plan_of(study_of(("HyCAM",)), steady(NLLS), curve=curve), [])
    with pytest.raises(NotRun, match="No fold has a validation of every method"):
        TABLES["wall_time"](plan_of(study_of(tuple(NLLS)), steady(NLLS), curve=[]), [])


PARAMETERS = {"HyCAM-SpecOnly": 600, "HyCAM": 1000, "LoRA": 1010}
KINDS = {"HyCAM-SpecOnly": StudyMethod("hycam-speconly"), "HyCAM": StudyMethod("hycam"), "LoRA": StudyMethod("lora")}


def parameters(cell: Cell) -> dict[str, int]:
    return {"trainable_parameters": PARAMETERS.get(cell.method)}


def test_a_budget_says_how_far_it_is_from_the_references() -> None:
    levels = {"HyCAM-SpecOnly": 1.2, "HyCAM": 1.1, "LoRA": 1.0, "Base": 0.5}
    plan = plan_of(study_of({**KINDS, "Base": StudyMethod("base")}), steady(levels), training=parameters)
    table = TABLES["budget"](plan, [])
    assert [row[0].text for row in table.rows] == list(KINDS)
    assert [row[3].text for row in table.rows] == ["-40.00", "–", "+1.00"]
    assert [row[2].value for row in table.rows] == pytest.approx([0.6, 1.0, 1.01])  # of 100,000
    assert [row[4].best for row in table.rows] == [False, False, True]


def test_a_budget_without_its_reference_is_not_compared() -> None:
    nlls = steady(dict.fromkeys(KINDS, 1.0))
    lost = plan_of(study_of(KINDS), lambda cell: DIVERGED if cell.method == "HyCAM" else nlls(cell))
    assert [row[3].text for row in TABLES["budget"](lost, []).rows] == ["–"] * 3
    with pytest.raises(NotRun, match="between HyCAM and another"):
        TABLES["budget"](plan_of(study_of(("LoRA",)), nlls), [])
