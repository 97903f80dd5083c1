"""Tokens and positions beyond the tables of a backbone are found before its weights are loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from architectures import tiny
from byte_tokenizer import byte_tokenizer
from hycam import backbones
from hycam.cli.main import main
from hycam.console import Silence
from hycam.data.prepare import prepare
from hycam.errors import HycamError
from hycam.training.preflight.check import preflight
from hycam.training.preflight.tables import check_tables
from hycam.training.recipe import EvaluationRecipe, Recipe
from hycam.training.train import train


@pytest.fixture
def build_on(build: Callable[..., Recipe], backbone: str, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe whose backbone's tokenizer has been changed."""

    def build_on(change: Callable[[PreTrainedTokenizerFast], Any], text: str = "") -> Recipe:
        folder = Path(shutil.copytree(backbone, tmp_path / "changed"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
        recipe = build(tmp_path / "run", max_steps=2)
        if text:
            path = tmp_path / "own.jsonl"
            rows = [{"instruction": f"say {n}", "output": f"{text}{n}"} for n in range(20)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            recipe = replace(recipe, data=replace(recipe.data, tasks=[str(path)]))
        return replace(recipe, backbone=str(folder))

    return build_on


def pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"eos_token": "<end>"})


def further(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["<tool>"])


def chat(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )


@pytest.mark.parametrize(
    ("change", "prompt", "text", "said"),
    [
        (pad, "alpaca", "", r'padding token "\[PAD\]" has the id 258, and .* has 258 embeddings'),
        (end, "alpaca", "", r'counting: the train row counting\.jsonl:\d+ has the token "<end>" with the id 258'),
        (chat, "chat", "", r'has the token "<\|im_end\|>" with the id 258'),
        (further, "alpaca", "a <tool> b", r'own: the train row own\.jsonl:\d+ has the token "<tool>" with the id 258'),
    ],
)
def test_a_token_beyond_the_embeddings_is_an_error_before_the_weights_are_loaded(
    build_on: Callable[..., Recipe], change: Any, prompt: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("weights are loaded"))
    recipe = build_on(change, text)
    recipe = replace(recipe, data=replace(recipe.data, prompt=prompt))
    found = "\n".join(one.text for one in preflight(recipe, Silence()).errors)
    with pytest.raises(HycamError) as stopped:
        train(recipe, Silence())
    for told in (found, str(stopped.value)):
        assert re.search(said, told)


def test_tokens_beyond_that_no_row_has_are_a_warning_and_a_prompt_with_one_is_refused(
    build_on: Callable[..., Recipe], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = build_on(further)
    found = preflight(recipe, Silence())
    assert not found.errors
    (warning,) = [one.text for one in found if "<tool>" in one.text]
    assert "No row has one of them; a text that has one is refused" in warning
    train(recipe, Silence())
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("weights are loaded"))
    assert main(["generate", recipe.output, "use a <tool> now"]) == 1
    assert "token id 258, and the backbone has embeddings for 0 to 257" in capsys.readouterr().err


@pytest.fixture
def on_gpt2(build: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe on a backbone with so many positions that have embeddings."""

    def on_gpt2(positions: int, architecture: str = "gpt2", **evaluation: Any) -> Recipe:
        name = "n_positions" if architecture == "gpt2" else "max_position_embeddings"
        folder = tmp_path / architecture
        tiny(architecture, vocab_size=258, bos_token_id=0, eos_token_id=1, pad_token_id=1,
             **{name: positions}).save_pretrained(folder)  # fmt: skip
        byte_tokenizer().save_pretrained(folder)
        recipe = build(tmp_path / "run", "lora", max_steps=2)
        settings = EvaluationRecipe(**{"max_new_tokens": 4, "generate_rows": 1, **evaluation})
        return replace(recipe, backbone=str(folder), evaluation=settings)

    return on_gpt2


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_rows_beyond_positions_that_have_embeddings_are_an_error(on_gpt2, architecture: str, monkeypatch) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("weights are loaded"))
    recipe = on_gpt2(150, architecture)
    said = "and the backbone 150 positions, each with an embedding of its own. Lower data.max_length to 150."
    assert any(said in one.text for one in preflight(recipe, Silence()).errors)
    with pytest.raises(HycamError, match=r"Lower data\.max_length to 150"):
        train(recipe, Silence())


def test_rows_beyond_computed_positions_are_a_warning(on_gpt2) -> None:
    found = preflight(on_gpt2(150, "llama"), Silence())
    assert not found.errors
    assert any("what lies beyond, it has never seen" in one.text for one in found if one.severity == "warning")


def test_an_answer_that_would_go_beyond_the_positions_is_an_error_of_the_check_and_no_end_of_the_training(
    on_gpt2, capsys: pytest.CaptureFixture[str], caplog
) -> None:
    recipe = on_gpt2(200, max_new_tokens=100)
    tokenizer = backbones.load_tokenizer(recipe.backbone)
    data = prepare(recipe.data, tokenizer)
    longest = max(length for rows in data.test.values() for length in rows["prompt_length"])
    (error,) = preflight(recipe, Silence()).errors
    assert f"Lower it to {200 - longest + 1}, or data.max_length" in error.text
    train(recipe, Silence())
    assert "so that `hycam evaluate` is refused" in caplog.text
    assert main(["evaluate", recipe.output]) == 1
    assert "200 positions, each with an embedding of its own" in capsys.readouterr().err
    assert main(["evaluate", recipe.output, "--max_new_tokens", str(200 - longest + 1)]) == 0
    exact = replace(recipe, evaluation=replace(recipe.evaluation, max_new_tokens=200 - longest + 1))
    assert check_tables(exact, data, tokenizer, backbones.load(recipe.backbone)) == []
    assert main(["generate", recipe.output, "a" * 300]) == 1
    assert "Shorten the text, or lower max_new_tokens" in capsys.readouterr().err
