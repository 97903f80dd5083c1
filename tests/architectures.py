"""Tiny random models of many architectures: the breadth on which the promises of the contract are tested."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 96
WIDTH = 32

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# Dropout is off everywhere, so that training mode differs from evaluation mode by the adapter's noise alone.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
    "phi": {**_COMMON, "partial_rotary_factor": 0.5},
    "phi3": _GROUPED,
    "olmo2": _GROUPED,
    "gpt2": _GPT2,
    "gpt_neo": {**_COMMON, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "window_size": 8, "resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neox": {**_COMMON, "attention_dropout": 0.0, "hidden_dropout": 0.0},
    "gpt_bigcode": _GPT2,
    "opt": {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH, "dropout": 0.0, "attention_dropout": 0.0},
    "falcon": {**_COMMON, "num_kv_heads": 2, "new_decoder_architecture": True, "attention_dropout": 0.0,
               "hidden_dropout": 0.0},
    "mpt": {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 128,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "stablelm": {**_GROUPED, "attention_dropout": 0.0},
    "granite": _GROUPED,
    "cohere": _GROUPED,
    "smollm3": _GROUPED,
    "starcoder2": {**_GROUPED, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_GROUPED, **_EXPERTS, "head_dim": 8},
    "gpt_oss": {**_GROUPED, "head_dim": 8, "num_local_experts": 4, "sliding_window": 8},
    "deepseek_v3": {**_COMMON, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
                    "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
                    "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "moe_intermediate_size": 24,
                    "first_k_dense_replace": 1},
    "biogpt": {**_COMMON, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
               "activation_dropout": 0.0, "layerdrop": 0.0},
}  # fmt: skip

# The feed-forward networks of these are mixtures of experts, on which low-rank updates are refused.
OF_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3")

# Their attention module adds the residual stream itself, or there is none: refused, with the reason.
REFUSED: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4},
    "bert": {**_COMMON, "is_decoder": True},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4},
}


def tiny(
    architecture: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A random model of two layers and width 32, in evaluation mode; the same seed gives the same weights."""
    settings = {**{**ARCHITECTURES, **REFUSED}[architecture], **changes}
    config = AutoConfig.for_model(architecture, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        # The libraries' initialisation is so small that the attention output hardly reaches the logits. Larger weights
        # let every comparison see it.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(5.0)
    return model.to(dtype).eval()


def tokens(rows: int = 2, length: int = 9, seed: int = 1) -> torch.Tensor:
    """Random token ids ``(rows, length)``, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)
