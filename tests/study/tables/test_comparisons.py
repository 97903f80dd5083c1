"""Every comparison of a report, one line each."""

from __future__ import annotations

import math

import pytest

from hycam.study.comparisons import Comparison, compare
from hycam.study.recipe import SweepRecipe
from hycam.study.significance import Bootstrap, TTest
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import plan_of, steady, study_of, sweep_evaluation

PLAN = plan_of(study_of(("LoRA", "HyCAM")), steady({"LoRA": 1.1, "HyCAM": 1.0}))


def test_differences_are_percent_of_perplexity_with_test_and_verdict() -> None:
    test = TTest(-0.02, -0.03, -0.01, 0.0004, 4, 5, "corrected t")
    bootstrap = Bootstrap(-0.02, -0.025, -0.015, 0.001, 60, 1000)
    made = Comparison(
        "A", "HyCAM", "LoRA", "macro", {"data.train_rows": 8}, test, bootstrap, "primary", 0.012, "lower", ""
    )
    table = TABLES["comparisons"](PLAN, [made])
    assert [entry.text for entry in table.rows[0]] == [
        "HyCAM, train_rows 8", "LoRA", "all, macro", "-1.98", "[-2.96, -1.00]", "corrected t, df 4", "< 0.001",
        "primary", "0.012", "lower", "-1.98 [-2.47, -1.49]",
    ]  # fmt: skip
    assert table.rows[0][3].value == pytest.approx(100 * (math.exp(-0.02) - 1))


def test_a_comparison_without_a_test_has_its_rows_alone() -> None:
    made = Comparison("A", "HyCAM", "LoRA", "dolly", {}, None, Bootstrap(0.01, 0.0, 0.02, 0.1, 9, 1000), "secondary",
                      None, "not tested", "")  # fmt: skip
    row = TABLES["comparisons"](PLAN, [made]).rows[0]
    assert [entry.text for entry in row[3:]] == [
        "–",
        "–",
        "none",
        "–",
        "secondary",
        "–",
        "not tested",
        "+1.01 [+0.00, +2.02]",
    ]


def test_all_comparisons_of_a_study_are_there_by_backbone() -> None:
    plan = plan_of(study_of(("LoRA", "HyCAM"), backbones={"A": "x", "B": "y"}), steady({"LoRA": 1.1, "HyCAM": 1.0}))
    made = compare(plan.results, plan.primary)
    table = TABLES["comparisons"](plan, made)
    assert table.columns[0] == "Backbone"
    assert [(row[0].text, row[3].text) for row in table.rows] == [
        (one.backbone, "all, macro" if one.task == "macro" else one.task) for one in made
    ]
    with pytest.raises(NotRun, match="two methods"):
        TABLES["comparisons"](plan, [])


def test_the_note_says_what_was_primary_and_what_the_study_wants_known() -> None:
    made = compare(PLAN.results, PLAN.primary)
    varied = plan_of(
        study_of(("LoRA", "HyCAM"), vary={"data.train_rows": [8, 16]}, note="Chosen afterwards."),
        steady({"LoRA": 1.1, "HyCAM": 1.0}),
    )
    note = TABLES["comparisons"](varied, made).note
    assert "Family: primary is HyCAM over all tasks, train_rows 8, against LoRA. All others are secondary." in note
    assert note.endswith("Chosen afterwards.")
    assert "Family: none is primary." in TABLES["comparisons"](
        plan_of(study_of(("Full Finetune", "HyCAM")), lambda cell: None), made
    ).note  # fmt: skip


def test_a_sweep_compares_nothing() -> None:
    study = study_of(("LoRA", "HyCAM"), folds=[0], sweep=SweepRecipe([1e-4, 3e-4]), evaluation=sweep_evaluation())
    plan = plan_of(study, steady({"LoRA": 1.1, "HyCAM": 1.0}))
    with pytest.raises(NotRun, match="sweep"):
        TABLES["comparisons"](plan, compare(plan.results, plan.primary))
