from __future__ import annotations

import csv
import functools
import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import hycam.data.load
from hycam.data.chosen import own_task
from hycam.data.load import load_task
from hycam.data.recipe import TaskRecipe
from hycam.data.rows import Example
from hycam.data.sources import NamedFile, Task
from hycam.data.tasks import TASKS
from hycam.errors import HycamError


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_becomes_rows_with_identity_and_group(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"instruction": "Sum.", "input": "2 3", "output": "5"},
        {"instruction": "Sing.", "input": " ", "output": "La"},
    )
    dataset = load_task(str(path))
    other = {"system": "", "history": [], "part": "", "messages": ""}
    assert dataset.to_list() == [
        {"row": "mine.jsonl:1", "group": "2 3", "instruction": "Sum.", "input": "2 3", "response": "5", **other},
        {"row": "mine.jsonl:2", "group": "Sing.", "instruction": "Sing.", "input": " ", "response": "La", **other},
    ]


def test_rows_without_response_or_question_are_skipped_and_counted(tmp_path: Path, caplog) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"instruction": "a", "input": "", "output": "1"},
        {"instruction": "b", "input": "", "output": " \n"},
        {"instruction": "c", "input": "", "output": None},
        {"instruction": "", "input": " ", "output": "1"},
        {"instruction": "", "input": "text to go on with", "output": "1"},
    )
    with caplog.at_level(logging.WARNING):
        assert load_task(str(path))["row"] == ["mine.jsonl:1", "mine.jsonl:5"]
    assert "mine: 3 of 5 rows skipped" in caplog.text
    assert len(load_task(str(path), keep_empty=True)) == 5


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("mine.jsonl", '{"instruction": "a", "output": ""}', {}),
        ("mine.jsonl", '{"instruction": 5.5, "output": "a"}', {"skip_bad_rows": True}),
        ("mine.csv", "instruction,output\n", {"keep_empty": True}),
        ("mine.json", "[]", {"keep_empty": True}),
    ],
)
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, name: str, content: str, settings: dict) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HycamError, match=rf"{name} has no row with an instruction and a response"):
        load_task(str(tmp_path / name), **settings)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_rows_come_back_in_order_however_many_are_written_at_once(tmp_path: Path, monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(hycam.data.load, "_ROWS_AT_ONCE", at_once)
    path = write(tmp_path / "mine.jsonl", *[{"instruction": f"a{n}", "output": f"b{n}"} for n in range(5)])
    read = load_task(str(path))
    assert read["row"][:] == [f"mine.jsonl:{n}" for n in range(1, 6)]
    assert read["response"][:] == [f"b{n}" for n in range(5)]


def test_history_and_system_come_back_as_they_were(tmp_path: Path) -> None:
    talk = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in talk]
    path = write(tmp_path / "mine.jsonl", {"messages": messages}, {"messages": messages[1:3]})
    first, second = load_task(str(path)).to_list()
    assert (first["system"], first["history"], first["group"]) == ("s", [{"asked": "a", "answered": "b"}], "a")
    assert (first["instruction"], first["response"]) == ("c", "d")
    assert (second["system"], second["history"], second["instruction"]) == ("", [], "a")


def test_what_turns_cannot_say_comes_back_as_it_was(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Where?"}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    said = [
        asked,
        {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0},
        {"role": "tool", "content": "blue"},
        {"role": "assistant", "content": "There.", "reasoning_content": "It is blue."},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    plain = [asked, {"role": "assistant", "content": "There."}]
    rows: list[dict[str, Any]] = [{"messages": said, "tools": tools}, {"messages": plain}, {"messages": None}]
    rows += [{"messages": [plain[0], plain[1] | answer]} for answer in ({"weight": 0}, {"content": None})]
    first, second = load_task(str(write(tmp_path / "mine.jsonl", *rows))).to_list()
    assert json.loads(first.pop("messages")) == {"messages": said, "tools": tools}
    assert second.pop("messages") == ""
    assert {**first, "row": "mine.jsonl:2"} == second


def test_tools_that_went_through_a_table_are_those_that_were_written(tmp_path: Path) -> None:
    functions = [
        {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
        {"name": "wait", "parameters": {"type": "object", "properties": {"seconds": {"type": "number"}}}},
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    calls = [("look", {"at": "sky"}), ("wait", {"seconds": 3})]
    made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    said = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "", "tool_calls": made}]
    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": said, "tools": tools}]), path)
    (row,) = load_task(str(path)).to_list()
    assert json.loads(row["messages"]) == {"messages": said, "tools": tools}


def test_a_group_of_numbers_gives_the_same_groups_in_every_format(tmp_path: Path) -> None:
    rows = [{"instruction": f"ask {n}", "output": "say", "doc": n % 3} for n in range(6)]
    text = [{**row, "doc": str(row["doc"])} for row in rows]
    found = []
    for name, written in (("a.json", rows), ("b.json", text)):
        (tmp_path / name).write_text(json.dumps(written))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    with (tmp_path / "d.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    for path in sorted(tmp_path.iterdir()):
        found.append(load_task(own_task(TaskRecipe(path=str(path), columns={"group": "doc"})))["group"][:])
    assert found == [["0", "1", "2"] * 2] * 4


def test_malformed_rows_are_skipped_where_that_is_wanted_and_the_first_is_shown(tmp_path: Path, caplog) -> None:
    good = json.dumps({"instruction": "a", "output": "b"})
    path = tmp_path / "mine.jsonl"
    bad = ['{"instruction": 5}', '{"instruction": "a", "output": 5.5}', "{", "[]", '{"messages": [null]}']
    path.write_text("\n".join([good, *bad, good]))
    with pytest.raises(HycamError, match=rf"^{path}:2: "):
        load_task(str(path))
    for _ in range(2):  # the second time out of the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_task(str(path), skip_bad_rows=True)["row"][:] == ["mine.jsonl:1", "mine.jsonl:7"]
        (told,) = caplog.messages
        assert told.startswith(f"mine: 5 malformed rows skipped; the first: {path}:2: one of these pairs")
    moved = tmp_path / "other" / "mine.jsonl"
    moved.parent.mkdir()
    path.rename(moved)
    caplog.clear()
    load_task(str(moved), skip_bad_rows=True)
    assert f"the first: {moved}:2: " in caplog.text


@pytest.mark.parametrize("skip", [False, True])
def test_a_misspelt_column_is_no_malformed_row(tmp_path: Path, skip: bool) -> None:
    path = write(tmp_path / "mine.jsonl", *[{"q": "a", "a": "b"}] * 3)
    task = own_task(TaskRecipe(path=str(path), columns={"instruction": "q", "response": "answer"}))
    with pytest.raises(HycamError, match=r'no column "?answer.*Columns: q, a'):
        load_task(task, skip_bad_rows=skip)


def test_all_rows_of_the_source_are_compared_with_the_papers_count(tmp_path: Path, monkeypatch, caplog) -> None:
    rows: list[dict[str, Any]] = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}]
    write(tmp_path / "dolly.jsonl", *rows)
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hycam"):
            load_task("dolly")
        assert TASKS["dolly"].compare(2) in caplog.messages


def test_an_unreadable_file_of_a_paper_task_does_not_fall_back_to_the_hub(tmp_path: Path, monkeypatch) -> None:
    file = write(tmp_path / "dolly.jsonl", {"instruction": "a", "output": "b"})
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    opened = Path.open

    def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(HycamError, match=rf"^{file} cannot be read: Permission denied"):
        load_task("dolly")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_giant_row_takes_a_small_multiple_of_its_size(tmp_path: Path, kind: str) -> None:
    size = 5_000_000
    row = {"instruction": "a", "input": "b", "output": "c" * size}
    path = tmp_path / f"giant.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    elif kind == "csv":
        path.write_text(f"instruction,input,output\na,b,{row['output']}\n")
    else:
        path.write_text(json.dumps([row] if kind == "json" else row))
    tracemalloc.start()
    try:
        dataset = load_task(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dataset[0]["response"]) == size
    assert peak < (12 if kind == "csv" else 6) * size  # the csv module's own buffer has four bytes a character


@pytest.mark.soak
def test_a_row_of_100_megabytes_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "giant.jsonl", {"instruction": "a", "output": "c" * 100_000_000})
    assert len(load_task(str(path))[0]["response"]) == 100_000_000


def test_a_batch_of_long_histories_is_written_before_it_is_full(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hycam.data.load, "_TEXT_AT_ONCE", 100)
    rows = [{"instruction": "a", "output": "b", "history": [["x" * 60, "y" * 60]]}] * 5
    dataset = load_task(str(write(tmp_path / "mine.jsonl", *rows)))
    assert dataset.data.column("row").num_chunks == len(dataset) == 5


def test_an_edited_converter_of_a_script_is_not_given_the_rows_of_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"a": "x", "b": "y"})

    def made(word: str):
        return lambda row: Example(row.identity, instruction=f"{word} {row.text('a')}", response=row.text("b"))

    def asked(convert) -> list[str]:
        return load_task(Task("mine", "own", "own", (NamedFile(path, convert),)))["instruction"][:]

    assert asked(made("one")) == ["one x"]
    assert asked(made("two")) == ["two x"]
    assert asked(functools.partial(made("three"))) == ["three x"]
