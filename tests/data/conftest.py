"""A tokenizer of one token per byte, so that a test can count tokens by counting bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = 0, 1


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, with "<s>" put before a text and "</s>" as both the end token and the padding."""
    return byte_tokenizer("<s> $A")


def byte_tokenizer(layout: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that lays special tokens around a text ``$A`` as ``layout`` says."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single=layout, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture
def paper_data(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the paper's five datasets, with HYCAM_DATA set to it."""
    monkeypatch.setenv("HYCAM_DATA", str(shared_data))
    return shared_data
