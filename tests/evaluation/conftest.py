"""Rows of words that a tiny tokenizer knows, and a model as tiny."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word; the padding is the end token, as it is in the embedded backbone."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture
def model() -> LlamaForCausalLM:
    """Two layers of random float64 weights, large enough to have opinions, in training mode."""
    config = LlamaConfig(
        vocab_size=63,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).double().train()


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerFast) -> Dataset:
    return make_rows(tokenizer, count=11, seed=3)


def make_rows(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Dataset:
    """Random prompts and responses of 1 to 12 words, in the columns that `hycam.data.encode` makes."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))

    entries = []
    for number in range(count):
        prompt, response = text(), text()
        asked = tokenizer(prompt)["input_ids"]
        answered = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
        entries.append(
            {
                "row": f"made-{seed}.jsonl:{number + 1}",
                "prompt": prompt,
                "response": response,
                "input_ids": asked + answered,
                "labels": [-100] * len(asked) + answered,
                "prompt_length": len(asked),
            }
        )
    return Dataset.from_list(entries)
