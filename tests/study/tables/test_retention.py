"""What is kept of earlier abilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hycam.study.cells import Cell
from hycam.study.recipe import StudyMethod
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import plan_of, retention_of, steady, study_of

NLLS = {"Base": 2.0, "LoRA": 1.1, "HyCAM": 1.0}
METHODS = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
LOST = {"LoRA": {"piqa": 0.05, "lambada": 0.03}, "HyCAM": {"piqa": 0.02, "lambada": 0.04}}


def kept(cell: Cell) -> dict[str, Any] | None:
    if cell.method == "Base":
        return None
    made = retention_of(
        {task: lost + 0.001 * cell.fold for task, lost in LOST[cell.method].items()}, kl={"replies": 0.2}
    )
    made["tasks"]["lambada"] |= {"accuracy": None, "base_accuracy": None}
    return made


def test_what_is_lost_stands_beside_the_backbones_own_figures() -> None:
    table = TABLES["retention"](plan_of(study_of(METHODS), steady(NLLS), retention=kept), [])
    assert table.headings == [
        "Method", "PPL", "Mean Δ", "over rows", "HyCAM minus it",
        "piqa Δ bits/byte", "piqa accuracy", "lambada Δ bits/byte", "KL, replies"
    ]  # fmt: skip
    rows = {row[0].text: row[1:] for row in table.rows}
    assert list(rows) == ["Backbone as it is", "LoRA", "HyCAM"]
    assert [entry.text for entry in rows["Backbone as it is"]] == ["", "", "", "", "1.0000", "0.500", "1.0000", ""]
    # Five folds add 0.002 on average.
    hycam = rows["HyCAM"]
    assert [hycam[at].value for at in (1, 4, 5, 6, 7)] == pytest.approx([0.032, 0.022, 0.5, 0.042, 0.2])
    assert hycam[4].text == "+0.0220 ± 0.0016"
    assert [entry.best for entry in hycam] == [True, True, False, False, True, False, False, False]


def test_intervals_are_over_rows_and_the_reference_is_compared_on_the_same_rows() -> None:
    plan = plan_of(study_of(METHODS), steady(NLLS), retention=kept)
    rows = {row[0].text: row for row in TABLES["retention"](plan, []).rows}
    # By hand: the mean of each row over folds, resampled within each task.
    per_row = {}
    for one in plan.results.select(method="LoRA"):
        for task, figures in one.content["retention"]["tasks"].items():
            items = figures["items"]
            bits = np.subtract(items["bits"], items["base_bits"]) / items["bytes"]
            per_row.setdefault(task, []).append(bits)
    generator = np.random.default_rng(0)
    means = [np.mean(of, axis=0)[generator.integers(8, size=(20_000, 8))].mean(axis=1) for of in per_row.values()]
    drawn = np.mean(means, axis=0)
    low, high = (float(text) for text in rows["LoRA"][3].text.strip("[]").split(", "))
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-3)
    # Rows differ alike under both methods, so nothing is left to chance: (0.02 + 0.04) / 2 - (0.05 + 0.03) / 2.
    assert rows["LoRA"][4].text == "-0.0100 [-0.0100, -0.0100]"
    assert rows["HyCAM"][4].text == "–"


def test_without_the_reference_nothing_is_compared_with_it() -> None:
    methods = {"Base": METHODS["Base"], "LoRA": METHODS["LoRA"]}
    table = TABLES["retention"](plan_of(study_of(methods), steady(NLLS), retention=kept), [])
    assert "HyCAM" not in " ".join([*table.headings, table.note])


def test_a_line_that_is_not_whole_has_no_interval() -> None:
    plan = plan_of(study_of(METHODS), steady(NLLS), retention=lambda cell: kept(cell) if cell.fold else None)
    rows = {row[0].text: row for row in TABLES["retention"](plan, []).rows}
    assert [entry.text for entry in rows["LoRA"][3:5]] == ["–", "–"]


def test_a_task_of_few_rows_has_no_interval() -> None:
    few = retention_of({"piqa": 0.1}, rows=5)
    plan = plan_of(study_of(METHODS), steady(NLLS), retention=lambda cell: None if cell.method == "Base" else few)
    assert [row[3].text for row in TABLES["retention"](plan, []).rows] == ["", "–", "–"]


def test_a_study_that_measures_nothing_of_it_says_so() -> None:
    with pytest.raises(NotRun, match="measured retention"):
        TABLES["retention"](plan_of(study_of(METHODS), steady(NLLS)), [])


def test_divergence_alone_makes_a_table_too() -> None:
    plan = plan_of(study_of(METHODS), steady(NLLS), retention=retention_of({}, kl={"lambada": 0.1}))
    table = TABLES["retention"](plan, [])
    assert table.headings == ["Method", "PPL", "KL, LAMBADA"]
