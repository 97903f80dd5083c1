"""The table of methods, and the parameters that each trains."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig

from hycam.budget import budgets
from hycam.errors import HycamError
from hycam.methods import METHODS, method

# Sizes of published checkpoints, as their configurations have them.
LLAMA_2_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
              "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False}  # fmt: skip
LLAMA_3_8B = {**LLAMA_2_7B, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
QWEN_2_5_0_5B = {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                 "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
                 "tie_word_embeddings": True}  # fmt: skip


def by_hand(config: dict) -> dict[str, int]:
    """The formulas of the methods for N_s = 5 and r = 64, on the sizes alone."""
    d, layers, f = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    head = d // config["num_attention_heads"]
    kv = config.get("num_key_value_heads", config["num_attention_heads"]) * head
    r, n = 64, 5
    linear = [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]
    low_rank, router = 2 * d * r + r * r, n * d
    return {
        "lora": layers * sum(r * (rows + columns) for rows, columns in linear),
        "hycam": layers * (d * d + n * low_rank + router),
        "hycam-shared-only": layers * d * d,
        "hycam-fullspec": layers * (d * d + n * d * d + router),
        "hycam-speconly": layers * (n * low_rank + router),
        "hycam-inverse-peft": layers * (low_rank + n * d * d + router),
    }


@pytest.mark.parametrize(
    ("config", "total", "hycam"),
    [(LLAMA_2_7B, 6_738_415_616, 622_067_712), (LLAMA_3_8B, 8_030_261_248, 622_067_712),
     (QWEN_2_5_0_5B, 494_032_768, 33_629_184)],
    ids=["Llama-2-7B", "Llama-3-8B", "Qwen2.5-0.5B"],
)  # fmt: skip
def test_parameters_are_counted_to_the_last_digit_from_a_configuration_alone(config, total, hycam, tmp_path) -> None:
    kind = config["model_type"]
    AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"}).save_pretrained(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    found = budgets(tmp_path)
    assert {entry.name: entry.trainable_parameters for entry in found} == by_hand(config)
    assert {entry.total_parameters for entry in found} == {total}
    assert by_hand(config)["hycam"] == hycam
    assert next(e for e in found if e.name == "hycam").share == hycam / total


def test_the_embedded_backbone_is_counted_without_fetching_it(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path))
    found = {entry.name: entry for entry in budgets("smollm2-135m")}
    assert found["hycam"].trainable_parameters == 21_713_280
    assert found["lora"].trainable_parameters == 19_537_920
    assert found["hycam"].total_parameters == 134_515_008
    assert not any(tmp_path.iterdir())


def test_a_misspelt_method_or_setting_names_the_nearest() -> None:
    with pytest.raises(HycamError, match=r'no method called "hycamm".*"hycam"'):
        method("hycamm")
    with pytest.raises(HycamError, match=r'hycam has no setting "num_specialised".*"num_specialized"'):
        method("hycam").config({"num_specialised": 3})
    with pytest.raises(HycamError, match="r must be at least 1, not 0"):
        method("hycam").config({"r": 0})


def test_every_configuration_of_the_table_can_be_written_down() -> None:
    for entry in METHODS.values():
        assert json.dumps(dict(entry.settings))
        assert entry.config().task_type == "CAUSAL_LM"
        assert entry.learning_rate > 0
