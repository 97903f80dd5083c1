"""Which kinds of models HyCAM adapts: other heads, hybrids, vision-language models; and which it refuses at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from architectures import ARCHITECTURES, VOCABULARY, tokens
from hycam import HyCAMConfig
from hycam.errors import HycamError
from hycam.tuners.hycam.layer import HyCAMLayer

_COMMON = {**ARCHITECTURES["llama"]}
_MAMBA = {"mamba_d_state": 4, "mamba_d_conv": 2, "mamba_expand": 2}
_MAMBA2 = {**_MAMBA, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
# Its settings, and the attention modules that it has.
HYBRIDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "jamba": (
        {**_COMMON, **_MAMBA, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False,
         "mamba_dt_rank": 4, "num_experts": 2},
        ["model.layers.1.self_attn"],
    ),
    "bamba": ({**_COMMON, **_MAMBA2, "attn_layer_indices": [1]}, ["model.layers.1.self_attn"]),
    "falcon_h1": ({**_COMMON, **_MAMBA2, "mamba_d_ssm": 64}, ["model.layers.0.self_attn", "model.layers.1.self_attn"]),
    "qwen3_next": (
        {**_COMMON, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "num_experts": 2,
         "num_experts_per_tok": 1, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
        ["model.layers.1.self_attn"],
    ),
}  # fmt: skip


def adapted(model: PeftModel) -> list[str]:
    return [name for name, module in model.base_model.model.named_modules() if isinstance(module, HyCAMLayer)]


def losses(model: nn.Module, **inputs: torch.Tensor) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    so_far = []
    for _ in range(3):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        so_far.append(loss.item())
    return so_far


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_of_a_hybrid_the_attention_layers_are_adapted_and_no_state_space_mixer(architecture: str) -> None:
    settings, attention = HYBRIDS[architecture]
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings))
    model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM", r=4, noise="never"))
    assert adapted(model) == attention
    first, *_, last = losses(model, input_ids=tokens(), labels=tokens())
    assert last < first


def test_where_a_block_holds_a_list_of_attention_modules_each_is_adapted() -> None:
    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "ffn_hidden_size": 48,
                "expert_ffn_hidden_size": 24, "num_attention_heads": 4, "n_routed_experts": 4, "zero_expert_num": 2,
                "moe_topk": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                "v_head_dim": 8, "head_dim": 8}  # fmt: skip
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("longcat_flash", **settings))
    model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM", r=4, noise="never"))
    assert adapted(model) == [f"model.layers.{layer}.self_attn.{index}" for layer in range(2) for index in range(2)]
    first, *_, last = losses(model, input_ids=tokens(), labels=tokens())
    assert last < first


def test_a_model_without_one_width_is_refused_when_attaching() -> None:
    part = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    parts = {f"{name}_config": part for name in ("patcher", "encoder", "decoder", "global")}
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model("blt", vocab_size=VOCABULARY, **parts))
    with pytest.raises(HycamError, match="has no width of its own"):
        get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM"))


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_an_encoder_decoder_is_refused_when_attaching_and_the_error_says_what_is_adapted(architecture: str) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8, "encoder_layers": 2,
             "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}  # fmt: skip
    base = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **sizes))
    before = [name for name, _ in base.named_modules()]
    with pytest.raises(HycamError, match=r"is an encoder-decoder\. HyCAM adapts decoder-only language models"):
        get_peft_model(base, HyCAMConfig(task_type="SEQ_2_SEQ_LM"))
    assert [name for name, _ in base.named_modules()] == before


@pytest.mark.parametrize(
    ("head", "task", "labels"),
    [
        (AutoModelForSequenceClassification, "SEQ_CLS", torch.tensor([0, 1])),
        (AutoModelForTokenClassification, "TOKEN_CLS", torch.arange(18).reshape(2, 9) % 2),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_decoder_with_another_head_trains(architecture: str, head: Any, task: str, labels: torch.Tensor) -> None:
    base = head.from_config(AutoConfig.for_model(architecture, **ARCHITECTURES[architecture]))
    model = get_peft_model(base, HyCAMConfig(task_type=task, r=4, noise="never"))
    assert len(adapted(model)) == 2
    first, *_, last = losses(model, input_ids=tokens(), attention_mask=torch.ones_like(tokens()), labels=labels)
    assert last < first


def test_of_a_vision_language_model_the_language_model_is_adapted_and_not_the_vision_tower() -> None:
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                              image_size=8, patch_size=4)  # fmt: skip
    image = VOCABULARY - 1
    base = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**_COMMON), image_token_id=image,
                    image_token_index=image, vision_feature_layer=-1)
    )  # fmt: skip
    model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM", r=4, noise="never"))
    assert adapted(model) == ["model.language_model.layers.0.self_attn", "model.language_model.layers.1.self_attn"]
    ids = tokens().clamp(max=image - 1)
    labels = ids.clone()
    ids[:, 1:5], labels[:, 1:5] = image, -100
    first, *_, last = losses(model, input_ids=ids, labels=labels, pixel_values=torch.randn(2, 3, 8, 8))
    assert last < first
