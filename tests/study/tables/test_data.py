"""Table 1: the rows and tokens of the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from byte_tokenizer import byte_tokenizer
from hycam.backbones import load_tokenizer
from hycam.data.recipe import DataRecipe, SplitRecipe, TaskRecipe
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.recipe import StudyRecipe
from hycam.study.results import Results
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun


def empty(study: StudyRecipe) -> Plan:
    return Plan(study, list[Cell](), Results([]))


def test_own_tasks_are_counted_with_the_backbones_tokenizer(backbone: str, tasks: list[str]) -> None:
    table = TABLES["data"](empty(StudyRecipe(backbones={"tiny": backbone}, data=DataRecipe(tasks=list(tasks)))), [])
    assert table.columns == ["Task", "Rows", "Tokens", "Tokens a row", "Domain"]
    tokenizer = load_tokenizer(backbone)
    for row, path in zip(table.rows, map(Path, tasks), strict=True):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts = [
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            f"\n\n### Instruction:\n{one['instruction']}\n\n### Response:{one['output']}"
            for one in rows
        ]
        tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        assert [entry.value for entry in row[1:4]] == [20, tokens, tokens / 20]
        assert row[0].text == path.stem


def test_a_task_with_a_file_for_each_part_is_counted_whole(backbone: str, tasks: list[str], tmp_path: Path) -> None:
    third = tmp_path / "third.jsonl"
    third.write_text(json.dumps({"instruction": "a", "input": "", "output": "b"}) + "\n")
    split = SplitRecipe("files", files={"train": tasks[0], "validation": tasks[1], "test": str(third)})
    study = StudyRecipe(backbones={"tiny": backbone}, data=DataRecipe(tasks=[TaskRecipe(name="mine", split=split)]))
    (row,) = TABLES["data"](empty(study), []).rows
    assert (row[0].text, row[1].value) == ("mine", 41)


def test_data_that_cannot_be_read_are_said(backbone: str) -> None:
    study = StudyRecipe(backbones={"tiny": backbone}, data=DataRecipe(tasks=["nowhere/nothing.jsonl"]))
    with pytest.raises(NotRun, match=r"cannot be counted: .*nothing\.jsonl"):
        TABLES["data"](empty(study), [])


def test_the_papers_counts_stand_beside_ours_but_for_webgpt(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYCAM_DATA", str(shared_data))
    asked: list[str] = []
    monkeypatch.setattr(
        "hycam.study.tables.data.load_tokenizer", lambda name, *_: asked.append(name) or byte_tokenizer()
    )
    table = TABLES["data"](empty(StudyRecipe(data=DataRecipe(tasks=["icliniq", "webgpt"]))), [])
    assert table.headings == ["Task", "Ours Rows", "Ours Tokens", "Ours Tokens a row", "Paper Rows", "Paper Tokens",
                              "Paper Tokens a row", "Domain"]  # fmt: skip
    assert asked == ["llama-3"]
    icliniq, webgpt = table.rows
    assert [entry.text for entry in icliniq[4:7]] == ["7,321", "1,826,306", "249.46"]
    assert icliniq[1].text == "2,002"
    assert [entry.text for entry in webgpt[4:7]] == ["", "", ""]
