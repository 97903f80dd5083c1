"""The real datasets: how many rows they give, and what no row may have."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest

from hycam.data.load import load_task
from hycam.data.partition import split_fold


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [
        ("gsm8k", 7473, 7473),
        ("medmcqa", 2206, 2206),
        ("mbpp", 500, 499),
        ("squad", 1000, 48),
        ("alpaca_eval", 805, 805),
    ],
)
def test_embedded_tasks_have_their_rows(name: str, rows: int, groups: int) -> None:
    dataset = load_task(name)
    assert (len(dataset), len(set(dataset["group"]))) == (rows, groups)
    assert len(set(dataset["row"])) == rows


@pytest.mark.parametrize(
    ("name", "rows"),
    [("auto_cot", 5816), ("icliniq", 2002), ("dolly", 15011), ("code_alpaca", 20022 - 6), ("webgpt", 901)],
)
def test_the_papers_tasks_have_their_rows(paper_data: Path, name: str, rows: int) -> None:
    dataset = load_task(name)
    assert len(dataset) == len(set(dataset["row"])) == rows


@pytest.mark.real
def test_gsm8k_has_no_mark_of_the_calculator_left_and_ends_with_the_answer() -> None:
    for response in load_task("gsm8k")["response"]:
        assert "<<" not in response and ">>" not in response and "####" not in response
        assert response.splitlines()[-1].startswith("The answer is ") and response.endswith(".")


@pytest.mark.real
def test_every_mbpp_response_is_python_with_unix_line_ends_that_its_instruction_calls() -> None:
    for row in load_task("mbpp"):
        assert "\r" not in row["response"]
        names = {node.name for node in ast.walk(ast.parse(row["response"])) if hasattr(node, "name")}
        assert any(re.search(rf"\b{name}\s*\(", row["instruction"]) for name in names), row["row"]


@pytest.mark.real
def test_every_squad_answer_stands_in_its_passage() -> None:
    assert all(row["response"] in row["input"] for row in load_task("squad"))


@pytest.mark.real
def test_every_medmcqa_response_begins_with_one_of_its_options() -> None:
    assert all(row["response"].split("\n\n")[0] in row["instruction"] for row in load_task("medmcqa"))


@pytest.mark.real
def test_the_split_of_a_real_task_is_pinned() -> None:
    dataset = load_task("squad")
    split = split_fold(dataset["group"], fold=0, seed=2333)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [702, 209, 89]
    rows = dataset["row"]
    listed = "\n".join(rows[number] for part in (split.train, split.validation, split.test) for number in part)
    assert (
        hashlib.sha256(listed.encode()).hexdigest()
        == "c83ee57474009160193061ce3fa5740fd11ab821d49f1068b6ca1f48685da4bf"
    )
