"""Table 5: methods x tasks."""

from __future__ import annotations

import numpy as np
import pytest

from hycam.study.tables import TABLES
from study.factory import TASKS, plan_of, steady, study_of

NLLS = {"Full Finetune": 1.15, "LoRA": 1.12, "MultiLoRA": 1.14, "RieMoE-LoRA": 1.11, "HyCAM": 1.05}


def test_every_task_has_its_own_figures_marked_on_each_backbone() -> None:
    plan = plan_of(study_of(backbones={"A": "x", "B": "y"}), steady(NLLS))
    table = TABLES["tasks"](plan, [])
    assert table.columns == ["Backbone", "Method", *["PPL"] * 5]
    assert table.groups == [("", 2), *[(task, 1) for task in TASKS]]
    best = [(row[0].text, row[1].text) for row in table.rows if all(entry.best for entry in row[2:])]
    assert best == [("A", "HyCAM"), ("B", "HyCAM")]
    dolly = next(row[4] for row in table.rows if (row[0].text, row[1].text) == ("B", "LoRA"))
    own = [one.tasks["dolly"]["nll"] for one in plan.results.select(backbone="B", method="LoRA")]
    assert dolly.value == pytest.approx(float(np.exp(np.mean(own))), rel=1e-12)


def test_the_paper_stands_below_ours_but_not_for_tasks_with_other_data() -> None:
    scores = dict.fromkeys(TASKS, 0.1)
    plan = plan_of(study_of(backbones={"Llama 2 7B": "x"}), steady(NLLS), bleu4=scores, rougeL=scores)
    table = TABLES["tasks"](plan, [])
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    assert rows["LoRA, paper"] == [
        "1.843", "0.268", "0.291", *[""] * 3, "6.029", "0.070", "0.181", "2.404", "0.146", "0.202", *[""] * 3
    ]  # fmt: skip
    assert "left out where the data here are not the paper's: icliniq, webgpt" in table.note
    elsewhere = plan_of(study_of(backbones={"Llama 3 8B": "x"}), steady(NLLS))
    assert not any("paper" in row[0].text for row in TABLES["tasks"](elsewhere, []).rows)
