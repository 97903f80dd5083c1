from __future__ import annotations

import pytest

from hycam.study.paper import published
from hycam.study.tables.gains import average_relative_improvement, relative_gains

PEFT = ("LoRA", "MultiLoRA", "RieMoE-LoRA")
FULL = "Full Finetune"


def test_the_published_table_gives_2_97_percent_over_all_baselines_and_4_09_over_the_peft_ones() -> None:
    everything = average_relative_improvement(published()["table2"], "HyCAM", (FULL, *PEFT))
    peft = average_relative_improvement(published()["table2"], "HyCAM", PEFT)
    assert everything is not None and peft is not None
    assert round(100 * everything, 2) == 2.97
    assert round(100 * peft, 2) == 4.09


def test_the_mean_is_over_fifteen_cells_each_against_its_own_best_baseline() -> None:
    gains = {
        (gain.backbone, gain.metric): gain for gain in relative_gains(published()["table2"], "HyCAM", (FULL, *PEFT))
    }
    assert len(gains) == 15
    llama = gains["Llama 2 7B", "ppl"]
    assert (llama.against, llama.value) == ("RieMoE-LoRA", pytest.approx((3.171 - 3.081) / 3.171))
    qwen = gains["Qwen 2.5 7B", "bleu4"]
    assert (qwen.against, qwen.value) == (FULL, pytest.approx((0.172 - 0.169) / 0.169))


def test_a_method_gains_nothing_over_itself_and_loses_where_it_is_worse() -> None:
    table = published()["table2"]
    assert average_relative_improvement(table, "LoRA", ["LoRA"]) == 0
    assert all(gain.value < 0 for gain in relative_gains(table, "MultiLoRA", ["HyCAM"]))


def test_what_was_not_measured_and_a_best_of_zero_are_left_out() -> None:
    scores = {"HyCAM": {"small": (2.0, 0.1, None), "large": (2.0, None, None)},
              "LoRA": {"small": (4.0, 0.0, 0.2), "large": (None, 0.1, 0.1)}}  # fmt: skip
    assert [(gain.backbone, gain.metric, gain.value) for gain in relative_gains(scores, "HyCAM", ["LoRA"])] == [
        ("small", "ppl", 0.5)
    ]
    assert average_relative_improvement(scores, "HyCAM", ["MultiLoRA"]) is None
