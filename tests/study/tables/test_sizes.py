"""Tables 3 and 4: the gain over the best PEFT baseline and its trend with the size of the backbone."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.tables import TABLES
from hycam.study.tables.scores import trend
from hycam.study.tables.table import Entry, NotRun
from study.factory import TASKS, plan_of, study_of

SIZES = {"Qwen 2.5 0.5B": 500_000_000, "Qwen 2.5 3B": 3_000_000_000, "Qwen 2.5 14B": 14_000_000_000, "Mine": 10**8}
# Perplexities by backbone: HyCAM's gain over the best of LoRA and MultiLoRA is 1, 2, 4 and 0.5 %.
LORA = {"Qwen 2.5 0.5B": 4.0, "Qwen 2.5 3B": 3.5, "Qwen 2.5 14B": 3.0, "Mine": 10.0}
GAINS = {"Qwen 2.5 0.5B": 1.0, "Qwen 2.5 3B": 2.0, "Qwen 2.5 14B": 4.0, "Mine": 0.5}


def nlls(cell: Cell) -> dict[str, float]:
    perplexity = LORA[cell.backbone]
    if cell.method == "HyCAM":
        perplexity *= 1 - GAINS[cell.backbone] / 100
    elif cell.method == "MultiLoRA":
        perplexity *= 1.1
    return dict.fromkeys(TASKS, math.log(perplexity))


def planned(backbones: list[str], **changes: object) -> Plan:
    study = study_of(("LoRA", "MultiLoRA", "HyCAM"), backbones={name: name for name in backbones}, **changes)
    return plan_of(study, nlls, training=lambda cell: {"total_parameters": SIZES[cell.backbone]})


def row(plan: Plan, label: str) -> list[Entry]:
    return next(found[1:] for found in TABLES["sizes"](plan, []).rows if found[0].text == label)


def test_the_gain_is_that_over_the_best_peft_baseline_and_the_papers_stands_below() -> None:
    plan = planned(list(SIZES))
    assert [entry.value for entry in row(plan, "Gain of HyCAM, %")] == pytest.approx([1, 2, 4, 0.5])
    paper = row(plan, "Gain of HyCAM, paper, %")
    by_hand = [100 * (best - own) / best for own, best in ((3.611, 3.621), (2.940, 3.001), (2.682, 2.792))]
    assert [entry.value for entry in paper[:3]] == pytest.approx(by_hand)
    assert paper[3].value is None


def test_the_trend_is_the_slope_over_the_logarithm_of_the_size_with_its_interval() -> None:
    note = TABLES["sizes"](planned(list(SIZES)), []).note
    said = re.search(r"Gain of HyCAM: (\S+) percentage points for ten times the size \[(\S+), (\S+)\], 4 sizes", note)
    x, y = np.log10(list(SIZES.values())), np.array(list(GAINS.values()))
    slope = ((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) @ (x - x.mean()))
    residual = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(residual @ residual / (len(x) - 2) / ((x - x.mean()) @ (x - x.mean())))
    half = stats.t.ppf(0.975, len(x) - 2) * error
    assert said is not None
    assert [float(text) for text in said.groups()] == pytest.approx([slope, slope - half, slope + half], abs=0.005)


def test_a_trend_of_two_sizes_is_undefined() -> None:
    note = TABLES["sizes"](planned(["Qwen 2.5 0.5B", "Qwen 2.5 3B"]), []).note
    assert "Gain of HyCAM: the trend is undefined with 2 of the 3 sizes that it takes." in note
    assert "undefined with 1 of" in trend([(100, 1.0), (100, 2.0), (100, 3.0)])


def test_a_backbone_where_a_baseline_is_missing_has_no_gain() -> None:
    study = study_of(("LoRA", "MultiLoRA", "HyCAM"), backbones={name: name for name in SIZES})

    def partly(cell: Cell) -> dict[str, float] | None:
        return None if (cell.method, cell.backbone, cell.fold) == ("LoRA", "Mine", 3) else nlls(cell)

    plan = plan_of(study, partly, training=lambda cell: {"total_parameters": SIZES[cell.backbone]})
    assert [entry.text for entry in row(plan, "Gain of HyCAM, %")] == ["+1.00", "+2.00", "+4.00", "–"]


def test_one_size_is_no_comparison_of_sizes() -> None:
    with pytest.raises(NotRun, match="two backbones"):
        TABLES["sizes"](planned(["Mine"]), [])
