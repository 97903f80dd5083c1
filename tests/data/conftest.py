"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from byte_tokenizer import byte_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, with "<s>" put before a text and "</s>" as both the end token and the padding."""
    return byte_tokenizer("<s> $A")


@pytest.fixture
def paper_data(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the paper's five datasets, with HYCAM_DATA set to it."""
    monkeypatch.setenv("HYCAM_DATA", str(shared_data))
    return shared_data
