from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hycam.data.formats import SourceRow, read_rows
from hycam.errors import HycamError

ROWS = [
    {"instruction": "Add 2 and 3.", "input": "", "output": "5"},
    {"instruction": 'Say "grüß\ndich", twice', "input": "a, b", "output": "line\u2028separator"},
]


def as_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows: list[dict]) -> bytes:
    return json.dumps(rows, indent=2).encode()


def as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {"jsonl": as_jsonl, "json": as_json, "csv": as_csv, "parquet": as_parquet}


def write(folder: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def failure(path: Path) -> str:
    with pytest.raises(HycamError) as caught:
        list(read_rows(path))
    return str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_rows_that_were_written(tmp_path: Path, kind: str, zipped: bool) -> None:
    content = WRITERS[kind](ROWS)
    path = write(tmp_path, gzip.compress(content) if zipped else content, f"rows.{kind}" + ".gz" * zipped)
    rows = list(read_rows(path))
    assert [row.fields for row in rows] == ROWS
    assert rows[0].identity.startswith(f"rows.{kind}:")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_format_is_recognised_whatever_the_name(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, gzip.compress(WRITERS[kind](ROWS)), "download")
    assert [row.fields for row in read_rows(path)] == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, kind: str) -> None:
    rows = [{"instruction": "Add.", "output": "5"}, {"instruction": "Go.", "output": "Gone"}]
    content = re.sub(rb"\r?\n", b"\r\n", WRITERS[kind](rows))
    path = write(tmp_path, b"\xef\xbb\xbf" + content, f"rows.{kind}")
    assert [row.fields for row in read_rows(path)] == rows


def test_blank_lines_are_passed_over_and_still_counted(tmp_path: Path) -> None:
    path = write(tmp_path, b'\n{"a": "1"}\n\n  \n{"a": "2"}\n\n')
    assert [(row.line, row.fields["a"]) for row in read_rows(path)] == [(2, "1"), (5, "2")]


def test_rows_of_json_and_csv_carry_the_line_on_which_they_begin(tmp_path: Path) -> None:
    listed = write(tmp_path, b'\n[\n {"a": 1,\n  "b": 2},\n\n {"a": 3}, {"a": 4}\n]\n', "list.json")
    assert [row.line for row in read_rows(listed)] == [3, 6, 6]
    table = write(tmp_path, b'\na,b\n"x\ny",1\n\nz,2\n', "table.csv")
    assert [row.line for row in read_rows(table)] == [3, 6]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=5))
def test_any_text_comes_back_out_of_json_lines_a_json_list_and_csv(tmp_path_factory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"instruction": "x", "output": text} for text in texts]
    for kind in ("jsonl", "json", "csv"):
        path = write(folder, WRITERS[kind](rows), f"rows.{kind}")
        assert [row.fields["output"] for row in read_rows(path)] == texts


def test_a_csv_cell_may_be_longer_than_the_default_limit_of_the_library(tmp_path: Path) -> None:
    path = write(tmp_path, as_csv([{"instruction": "a", "output": "b" * 200_000}]), "long.csv")
    assert len(next(iter(read_rows(path))).text("output")) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "place", "said"),
    [
        ("a.jsonl", b"", "a.jsonl", "is empty"),
        ("a.jsonl", b"\n \n", "a.jsonl", "is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n', "a.jsonl:2:", "one whole JSON object"),
        ("a.jsonl", b'{"a": 1}\nhello\n', "a.jsonl:2:1", "one whole JSON object"),
        ("a.jsonl", b'{"a": 1}\n["b"]\n', "a.jsonl:2", "not a list"),
        ("a.jsonl", b"instruction: x\n", "a.jsonl:1:1", "an object in braces"),
        ("a.jsonl", b'{"a": "1"}\n{"a": "gr\xfc\xdf"}\n', "a.jsonl:2:10", "0xfc is not UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "a.csv", "UTF-16"),
        ("a.json", b'[\n {"a": 1},\n {"a" 2}\n]', "a.json:3:7", "JSON objects"),
        ("a.json", b'[\n {"a": 1}\n {"a": 2}\n]', "a.json:3:2", "a comma"),
        ("a.json", b'[{"a": 1},\n 5]', "a.json:2", "not a number"),
        ("a.json", b'[{"a": 1}, null]', "a.json:1", "not null"),
        ("a.json", b'[{"a": 1}', "a.json:1:10", "closes the list"),
        ("a.json", b'[{"a": 1}]\n{}', "a.json:2:1", "after the list"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3", "2 cells were expected (a, b), not 3"),
        ("a.csv", b'a,b\n1,2\n"1,2\n', "a.csv:3", "a row of CSV"),
        ("a.csv", b"a,a\n1,2\n", "a.csv:1", "same name"),
        ("a.parquet", as_parquet(ROWS)[:-20], "a.parquet", "cut off or damaged"),
        ("a.parquet", b"\x00\xff" * 50, "a.parquet", "is not Parquet"),
        ("a.jsonl.gz", gzip.compress(as_jsonl(ROWS))[:-9], "a.jsonl.gz", "cut off or damaged"),
        ("a.parquet.gz", gzip.compress(as_parquet(ROWS))[:-9], "a.parquet.gz", "cut off or damaged"),
    ],
)
def test_a_broken_file_is_reported_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str, said: str
) -> None:
    path = write(tmp_path, content, name)
    message = failure(path)
    assert message.startswith(str(tmp_path / place)), message
    assert said in message, message


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "none.jsonl")
    assert "directory" in failure(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [(42, "a number (42)"), (True, "true or false"), (["x"], "a list"), ({}, "an object"), ("\ud800", "half")],
)
def test_what_is_not_text_is_refused_where_text_belongs(value: object, said: str) -> None:
    with pytest.raises(HycamError, match=re.escape(said)) as caught:
        SourceRow("folder/a.jsonl", 7, {"output": value}).text("output")
    assert str(caught.value).startswith("folder/a.jsonl:7: ")


def test_a_missing_column_is_named_with_the_nearest_and_with_those_there_are() -> None:
    with pytest.raises(HycamError, match=r'no column "output".*Did you mean "outputs"\? Columns: prompt, outputs'):
        SourceRow("a.csv", 2, {"prompt": "", "outputs": ""}).text("output")


def test_null_is_empty_text() -> None:
    assert SourceRow("a.jsonl", 1, {"input": None}).text("input") == ""
