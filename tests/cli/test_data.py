from __future__ import annotations

import json
from pathlib import Path

import pytest

import hycam.cli.data
from hycam.data.tasks import EMBEDDED, TASKS
from hycam.errors import HycamError, UsageError


def hycam_data(*arguments: str) -> None:
    hycam.cli.data.main(list(arguments))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that has auto_cot alone, and an empty cache."""
    (tmp_path / "auto_cot.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 1234)
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_list_prints_every_task_with_the_rows_of_those_that_are_here(capsys) -> None:
    hycam_data("list")
    lines = capsys.readouterr().out.splitlines()
    for name in TASKS:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert ("1,234" in line) == (name == "auto_cot")


def test_list_as_json_has_the_same(capsys, folder: Path) -> None:
    hycam_data("list", "--json")
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == list(TASKS)
    assert entries["auto_cot"]["rows"] == 1234 and entries["auto_cot"]["path"] == str(folder / "auto_cot.jsonl")
    assert entries["gsm8k"]["rows"] is None
    assert set(entries["gsm8k"]) == {"name", "domain", "rows", "source", "path", "licence"}


def test_fetch_brings_the_embedded_tasks_by_default(monkeypatch, capsys) -> None:
    monkeypatch.setattr(hycam.cli.data, "fetch", lambda name: f"/cache/{name}")
    hycam_data("fetch")
    assert capsys.readouterr().out.splitlines() == [f"{name}: /cache/{name}" for name in EMBEDDED]


def test_fetch_brings_nothing_when_one_name_is_misspelt(monkeypatch) -> None:
    monkeypatch.setattr(hycam.cli.data, "fetch", lambda name: pytest.fail(f"{name} was fetched"))
    with pytest.raises(HycamError, match='Did you mean "squad"'):
        hycam_data("fetch", "gsm8k", "sqaud")


def test_preview_hands_its_options_on(monkeypatch, folder: Path) -> None:
    got: dict = {}
    monkeypatch.setattr("hycam.backbones.load_tokenizer", lambda name: f"tokenizer of {name}")
    monkeypatch.setattr(
        hycam.cli.data,
        "preview",
        lambda task, tokenizer, console, **options: got.update(options, task=task, t=tokenizer),
    )
    hycam_data("preview", "squad", "--rows", "5", "--prompt", "chat", "--max_length", "64", "--backbone", "x")
    expected = {"rows": 5, "style": "chat", "max_length": 64, "overlong": "shorten"}
    assert got == {**expected, "task": "squad", "t": "tokenizer of x"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lists"],
        ["list", "--jsn"],
        ["preview"],
        ["preview", "squad", "--prompt", "x"],
        ["preview", "squad", "--rows", "0"],
    ],
)
def test_wrong_usage_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        hycam_data(*arguments)
