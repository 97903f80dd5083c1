"""The parameters that each method trains, counted from a configuration alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from architectures import ARCHITECTURES, REFUSED
from hycam.cli.methods import budgets
from hycam.methods import METHODS

# Sizes of published checkpoints, as their configurations have them.
LLAMA_2_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
              "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False}  # fmt: skip
LLAMA_3_8B = {**LLAMA_2_7B, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
QWEN_2_5_0_5B = {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                 "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
                 "tie_word_embeddings": True}  # fmt: skip
SMOLLM2_135M = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
                "tie_word_embeddings": True}  # fmt: skip

# What the paper's comparison trains with n = N = 5 and r = 64.
PUBLISHED = {
    "Llama-2-7B": (LLAMA_2_7B, {
        "full": 6_738_415_616, "lora": 159_907_840, "multilora": 806_338_560, "moe-lora": 805_232_640,
        "riemoe-lora": 805_232_640, "hycam": 622_067_712, "hycam-shared-only": 536_870_912,
        "hycam-fullspec": 3_221_880_832, "hycam-speconly": 85_196_800, "hycam-inverse-peft": 2_701_918_208,
        "hycam-released": 622_481_408, "hycam-ffn": 626_769_920}),
    "Llama-3-8B": (LLAMA_3_8B, {
        "full": 8_030_261_248, "lora": 167_772_160, "multilora": 845_742_080, "moe-lora": 845_086_720,
        "riemoe-lora": 845_086_720, "hycam": 622_067_712, "hycam-shared-only": 536_870_912,
        "hycam-fullspec": 3_221_880_832, "hycam-speconly": 85_196_800, "hycam-inverse-peft": 2_701_918_208,
        "hycam-released": 622_481_408, "hycam-ffn": 646_578_176}),
    "Qwen2.5-0.5B": (QWEN_2_5_0_5B, {
        "full": 494_032_768, "lora": 35_192_832, "multilora": 177_484_800, "moe-lora": 177_192_960,
        "riemoe-lora": 177_192_960, "hycam": 33_629_184, "hycam-shared-only": 19_267_584,
        "hycam-fullspec": 115_713_024, "hycam-speconly": 14_361_600, "hycam-inverse-peft": 99_296_256,
        "hycam-released": 33_709_056, "hycam-ffn": 44_980_224}),
    "SmolLM2-135M": (SMOLLM2_135M, {
        "full": 134_515_008, "lora": 19_537_920, "multilora": 98_467_200, "moe-lora": 98_438_400,
        "riemoe-lora": 98_438_400, "hycam": 21_713_280, "hycam-shared-only": 9_953_280,
        "hycam-fullspec": 59_806_080, "hycam-speconly": 11_760_000, "hycam-inverse-peft": 52_187_520,
        "hycam-released": 21_784_320, "hycam-ffn": 21_738_240}),
}  # fmt: skip


def by_formula(config: dict) -> dict[str, float]:
    """Trainable parameters of one rank of the low-rank baselines, and what does not grow with the rank."""
    d, layers, f = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    kv = config.get("num_key_value_heads", config["num_attention_heads"]) * (d // config["num_attention_heads"])
    linear = [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]
    both = layers * sum(rows + columns for rows, columns in linear)
    return {
        "lora": (both, 0),
        "hycam-ffn": (layers * 3 * (d + f), layers * d * d),
        "multilora": (5 * both, 5 * layers * sum(columns for _, columns in linear)),
        "moe-lora": (5 * both, 5 * layers * sum(rows for rows, _ in linear)),
    }


def only_a_config(folder: Path, config: dict) -> Path:
    values = {key: value for key, value in config.items() if key != "model_type"}
    AutoConfig.for_model(config["model_type"], **values).save_pretrained(folder)
    assert [entry.name for entry in folder.iterdir()] == ["config.json"]
    return folder


@pytest.mark.parametrize(("name", "rank"), [("Llama-2-7B", 249), ("Llama-3-8B", 237), ("Qwen2.5-0.5B", 61),
                                            ("SmolLM2-135M", 71)])  # fmt: skip
def test_parameters_are_counted_to_the_last_digit_from_a_configuration_alone_and_matched_to_hycams(
    name: str, rank: int, tmp_path: Path
) -> None:
    config, expected = PUBLISHED[name]
    found = {entry["name"]: entry for entry in budgets(only_a_config(tmp_path, config))}
    assert list(found) == list(METHODS)
    assert {key: found[key]["trainable_parameters"] for key in expected} == expected
    assert {entry["total_parameters"] for entry in found.values()} == {expected["full"]}
    assert found["hycam"]["share"] == expected["hycam"] / expected["full"]
    assert found["lora-matched"]["rank"] == rank
    assert abs(found["lora-matched"]["deviation"]) < 0.01
    for plain, (of_a_rank, fixed) in by_formula(config).items():
        matched, budget = found[f"{plain}-matched"], expected["lora" if plain == "hycam-ffn" else "hycam"]
        if fixed > budget:  # a full shared module alone is larger than LoRA
            assert "no rank matches it" in matched["refused"] and "shared: low_rank" in matched["refused"]
            continue
        assert matched["trainable_parameters"] == matched["rank"] * of_a_rank + fixed
        assert matched["deviation"] == matched["trainable_parameters"] / budget - 1
        # No other rank comes nearer.
        assert abs(matched["trainable_parameters"] - budget) <= of_a_rank / 2
    assert found["riemoe-lora-matched"]["trainable_parameters"] == found["moe-lora-matched"]["trainable_parameters"]
    for name, entry in found.items():
        assert ("rank" in entry) == ("deviation" in entry) == ("matched" in name and "refused" not in entry)


def test_the_embedded_backbone_is_counted_without_fetching_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path))
    found = {entry["name"]: entry for entry in budgets("smollm2-135m")}
    assert found["hycam"]["trainable_parameters"] == 21_713_280
    assert found["hycam"]["total_parameters"] == 134_515_008
    assert not any(tmp_path.iterdir())


def test_a_method_that_refuses_the_backbone_is_listed_with_its_reason(tmp_path: Path) -> None:
    found = {
        entry["name"]: entry
        for entry in budgets(only_a_config(tmp_path, {"model_type": "phi", **ARCHITECTURES["phi"]}))
    }
    assert "refused" not in found["hycam"]
    assert found["hycam-released"]["trainable_parameters"] is None
    assert "llama, mistral, qwen2" in found["hycam-released"]["refused"]


def test_without_hycam_there_is_no_budget_to_match(tmp_path: Path) -> None:
    config = {"model_type": "bloom", **REFUSED["bloom"]}
    found = {entry["name"]: entry for entry in budgets(only_a_config(tmp_path, config))}
    assert found["lora"]["trainable_parameters"] > 0
    for name in ("hycam", "lora-matched"):
        assert "adds the residual stream" in found[name]["refused"]


def test_the_smallest_baselines_can_be_above_hycams_budget(tmp_path: Path) -> None:
    # Wide feed-forward layers beside a narrow hidden state: a rank-one expert on each is already more than HyCAM.
    narrow = {**SMOLLM2_135M, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64,
              "num_hidden_layers": 1, "intermediate_size": 4096}  # fmt: skip
    found = {entry["name"]: entry for entry in budgets(only_a_config(tmp_path, narrow))}
    assert "no rank matches it" in found["multilora-matched"]["refused"]
