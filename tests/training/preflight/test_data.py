"""What a maximum length loses, counted again row by row; files that do not parse; rows in two parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from byte_tokenizer import byte_tokenizer
from hycam.data.prepare import prepare
from hycam.data.recipe import DataRecipe, SplitRecipe, TaskRecipe
from hycam.training.preflight import Finding
from hycam.training.preflight.data import check_duplicates, check_lengths, check_responses, prepared

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
