"""Rows and answers that are lost, files that do not parse, rows in two parts, tokens beyond the backbone's tables."""

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
from hycam.data.recipe import DataRecipe, SplitRecipe, TaskRecipe
from hycam.errors import HycamError
from hycam.training.preflight import Finding
from hycam.training.preflight.check import preflight
from hycam.training.preflight.data import check_duplicates, check_lengths, check_responses, check_tables, prepared
from hycam.training.recipe import EvaluationRecipe, Recipe
from hycam.training.train import train

TEMPLATE = "{instruction}|"


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = [json.dumps({"instruction": asked, "input": "", "output": answer}) for asked, answer in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.severity, one.text) for one in findings]


def of_lengths(tmp_path: Path, long: int, overlong: str = "drop") -> DataRecipe:
    """Of 100 rows, ``long`` have an answer of 90 bytes and the others one of 10; 60 tokens fit."""
    rows = [(f"question {n:03}", "x" * (90 if n < long else 10)) for n in range(100)]
    return DataRecipe([write(tmp_path / "task.jsonl", rows)], prompt=TEMPLATE, max_length=60, overlong=overlong)


@pytest.mark.parametrize(("long", "severity"), [(0, None), (5, None), (30, "warning"), (80, "error")])
def test_dropped_rows_and_lost_responses_are_judged_by_their_share(
    tmp_path: Path, long: int, severity: str | None
) -> None:
    recipe = of_lengths(tmp_path, long)
    tokenizer = byte_tokenizer()
    data = prepare(recipe, tokenizer)
    found = [one for one in check_lengths(recipe, data) if "train rows" in one.text]
    counts = data.counts["train"]["task"]
    if severity is None:
        assert found == []
    else:
        assert found[0].severity == severity
        assert f"{counts.dropped / counts.rows:.0%} are dropped" in found[0].text
    # An answer of 90 bytes is 91 tokens with its end token, which is lost whole.
    whole = counts.rows * 11 + counts.dropped * 80
    lost = counts.dropped * 91 / whole
    responses = check_responses(recipe, data, tokenizer)
    if lost > 0.1:
        assert f"{lost:.0%} of the response tokens" in responses[0].text
        assert responses[0].severity == ("error" if lost > 0.5 else "warning")
    else:
        assert responses == []


def test_prompts_that_are_shortened_are_told_of_and_lose_no_response(tmp_path: Path) -> None:
    rows = [("y" * 80 + f"{n:03}", "ten bytes.") for n in range(40)]
    recipe = DataRecipe([write(tmp_path / "task.jsonl", rows)], prompt=TEMPLATE, max_length=60)
    data = prepare(recipe, byte_tokenizer())
    found = said(check_lengths(recipe, data))
    assert {severity for severity, _ in found} == {"warning"}
    assert "100% are shortened in the middle of the prompt" in found[0][1]
    assert check_responses(recipe, data, byte_tokenizer()) == []


def test_every_task_that_does_not_parse_is_named(tmp_path: Path, tasks: list[str]) -> None:
    (tmp_path / "one.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    (tmp_path / "two.csv").write_text("question,answer\nx,y\n")
    recipe = DataRecipe([str(tmp_path / "one.jsonl"), tasks[0], str(tmp_path / "two.csv"), "gsm9k"])
    found, data = prepared(recipe, byte_tokenizer())
    assert data is None
    assert [one.severity for one in found] == ["error"] * 3
    for one, word in zip(found, ("one.jsonl", "two", '"gsm8k"'), strict=True):
        assert word in one.text
    whole, data = prepared(replace(recipe, tasks=[tasks[0]]), byte_tokenizer())
    assert (whole, data is not None) == ([], True)


def test_a_part_that_is_left_without_rows_is_an_error(tmp_path: Path) -> None:
    recipe = of_lengths(tmp_path, 100)
    found, data = prepared(recipe, byte_tokenizer())
    assert data is None
    assert "no row is left in the train part" in found[0].text


def test_questions_in_two_parts_are_counted_across_tasks(tmp_path: Path) -> None:
    files = {
        "train": write(tmp_path / "train.jsonl", [(f"q{n}", "a") for n in range(10)]),
        "validation": write(tmp_path / "validation.jsonl", [(f"q{n}", "other") for n in range(8, 12)]),
        "test": write(tmp_path / "test.jsonl", [(f"new{n}", "a") for n in range(4)]),
    }
    split = SplitRecipe(by="files", files=files)
    recipe = DataRecipe([TaskRecipe(name="parts", split=split)], prompt=TEMPLATE)
    ((severity, text),) = said(check_duplicates(prepare(recipe, byte_tokenizer())))
    assert severity == "warning"
    assert "parts: 2 of 4 validation rows ask what a training row asks" in text
    assert check_duplicates(prepare(of_lengths(tmp_path, 0), byte_tokenizer())) == []


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
    assert any("it was not trained on longer rows" in one.text for one in found if one.severity == "warning")


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
