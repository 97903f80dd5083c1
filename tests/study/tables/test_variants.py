"""Table 6 and the table of budgets: variants of HyCAM, and methods by their trainable parameters."""

from __future__ import annotations

import math

import pytest

from hycam.study.cells import Cell
from hycam.study.recipe import StudyMethod
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import DIVERGED, TASKS, plan_of, steady, study_of, tasks_of

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


def test_a_budget_says_how_far_it_is_from_the_references() -> None:
    plan = plan_of(study_of({**VARIANTS, "Base": StudyMethod("base")}), steady({**PERPLEXITY, "Base": 1.0}),
                   training=parameters)  # fmt: skip
    table = TABLES["budget"](plan, [])
    assert [row[0].text for row in table.rows] == list(VARIANTS)
    assert [row[3].text for row in table.rows] == ["-50.00", "-40.00", "–", "+1.00"]
    assert [row[2].value for row in table.rows] == pytest.approx([0.5, 0.6, 1.0, 1.01])  # of 100,000
    assert [row[4].best for row in table.rows] == [False, False, False, True]


def test_a_budget_without_its_reference_is_not_compared() -> None:
    def lost(cell: Cell) -> dict[str, float] | str:
        return DIVERGED if cell.method == "HyCAM" else nlls(cell)

    table = TABLES["budget"](plan_of(study_of(VARIANTS), lost, training=parameters), [])
    assert [row[3].text for row in table.rows] == ["–"] * 4
    with pytest.raises(NotRun, match="between HyCAM and another"):
        TABLES["budget"](plan_of(study_of(("LoRA",)), nlls), [])
