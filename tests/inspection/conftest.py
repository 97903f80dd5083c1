"""Tiny adapted backbones in float64, and rows of random tokens with prompts that carry no label."""

from __future__ import annotations

import random

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import PreTrainedTokenizerFast

from architectures import tiny
from byte_tokenizer import byte_tokenizer
from hycam import HyCAMConfig

EXPERTS = 3
TEMPERATURE = 0.5


def adapted(architecture: str = "llama", *, layers: int = 3, **settings) -> PeftModel:
    """A backbone of three layers with a random HyCAM adapter."""
    torch.manual_seed(5)
    base = tiny(architecture, dtype=torch.float64, **({"num_hidden_layers": layers} if architecture == "llama" else {}))
    config = {"r": 4, "num_specialized": EXPERTS, "init_weights": False, **settings}
    return get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM", temperature=TEMPERATURE, **config)).double().eval()


def padder() -> PreTrainedTokenizerFast:
    """Names a padding id, which is all that is asked of it here."""
    return byte_tokenizer()


def made_rows(seed: int, count: int = 7) -> Dataset:
    """Prompts of 2 to 9 tokens and responses of 1 to 12."""
    draw = random.Random(seed)
    entries = []
    for number in range(count):
        asked = [draw.randint(3, 95) for _ in range(draw.randint(2, 9))]
        answered = [draw.randint(3, 95) for _ in range(draw.randint(1, 12))]
        entries.append({"row": f"made:{number}", "input_ids": asked + answered,
                        "labels": [-100] * len(asked) + answered, "prompt_length": len(asked)})  # fmt: skip
    return Dataset.from_list(entries)
