from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hycam.data.read
from hycam.data.read import read_rows
from hycam.errors import HycamError

ROWS = [
    {"instruction": "Add 2 and 3.", "input": "", "output": "5"},
    {"instruction": 'Say "grüß\ndich", twice', "input": "a, b", "output": "line\u2028separator"},
]


def zipped_bytes(content: bytes) -> bytes:
    """Gzipped without the time of day, which would give every test process other names of tests."""
    return gzip.compress(content, mtime=0)


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


@pytest.mark.parametrize("kind", WRITERS)
def test_the_format_is_recognised_whatever_the_name(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, zipped_bytes(WRITERS[kind](ROWS)), "download")
    assert [row.fields for row in read_rows(path)] == ROWS


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, list[dict[str, str]], list[int]]:
    """A file's name and content, its rows, and the line of each, written by hand in any of the formats."""
    columns = ("instruction", "output")
    rows = [dict(zip(columns, row, strict=True)) for row in draw(st.lists(st.tuples(any_text, any_text), min_size=1))]
    kind = draw(st.sampled_from(["jsonl", "json", "csv", "parquet"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text, lines = f"instruction,output{end}" if kind == "csv" else "", []
    for number, row in enumerate(rows):
        text += draw(st.sampled_from(("", end, f"  {end}{end}")))
        if kind == "json":
            text += "," if number else "["
        lines.append(text.count("\n") + 1)
        if kind == "csv":
            cells = io.StringIO(newline="")
            csv.writer(cells, lineterminator=end, quoting=csv.QUOTE_ALL).writerow(row.values())
            text += cells.getvalue()
        else:
            text += json.dumps(row, ensure_ascii=draw(st.booleans())) + end
    content = (text + "]" * (kind == "json")).encode()
    if kind == "parquet":
        content, lines = as_parquet(rows), list(range(1, len(rows) + 1))
    elif draw(st.booleans()):
        content = b"\xef\xbb\xbf" + content
    zipped = draw(st.booleans())
    return f"a.{kind}" + ".gz" * zipped, zipped_bytes(content) if zipped else content, rows, lines


@settings(max_examples=60, deadline=None)
@given(file=files(), chunk=st.sampled_from((1, 3, 64)))
def test_every_row_that_was_written_is_read_with_its_texts_and_identity(tmp_path_factory, file, chunk: int) -> None:
    name, content, rows, lines = file
    path = write(tmp_path_factory.mktemp("any"), content, name)
    with chunks_of(chunk):
        read = list(read_rows(path))
    assert [row.fields for row in read] == rows
    assert [row.identity for row in read] == [f"{name.removesuffix('.gz')}:{line}" for line in lines]


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hycam.data.read, "_CHUNK", size)
        patch.setattr(hycam.data.read, "_PARQUET_ROWS", size)
        yield


spaces = st.text(" \t\r\n", max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.tuples(spaces, st.dictionaries(any_text, values, max_size=3) | values, spaces), max_size=6),
    chunk=st.integers(1, 40),
    mark=st.booleans(),
    plain=st.booleans(),
)
def test_a_list_in_pieces_has_the_items_and_lines_of_the_whole(
    tmp_path_factory, items: list[tuple[str, Any, str]], chunk: int, mark: bool, plain: bool
) -> None:
    text, lines = "\n[", []
    for number, (before, value, after) in enumerate(items):
        text += "," * (number > 0) + before
        lines.append(text.count("\n") + 1)
        text += json.dumps(value, ensure_ascii=plain) + after
    path = write(tmp_path_factory.mktemp("list"), b"\xef\xbb\xbf" * mark + (text + "]\n").encode(), "a.json")
    bad: list[str] = []
    with chunks_of(chunk):
        rows = list(read_rows(path, lambda error: bad.append(str(error))))
    is_row = [isinstance(value, dict) for _, value, _ in items]
    assert [row.line for row in rows] == [line for line, good in zip(lines, is_row, strict=True) if good]
    assert repr([row.fields for row in rows]) == repr([value for _, value, _ in items if isinstance(value, dict)])
    places = [int(error.removeprefix(f"{path}:").split(":")[0]) for error in bad]
    assert places == [line for line, good in zip(lines, is_row, strict=True) if not good]


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 60), put=st.sampled_from([b"", b"x", b'"', b"\n", b"]", b"}", b"\xff", b"\\", b","]))
def test_a_list_in_pieces_is_refused_at_the_place_where_the_whole_is(tmp_path_factory, place: int, put: bytes) -> None:
    good = '[\n {"a": "grün", "b": [1, 2e5, true]},\n {"a": "\\ud83d\\ude00", "b": -7}\n]'.encode()
    path = write(tmp_path_factory.mktemp("list"), good[:place] + put + good[place + 1 :], "a.json")

    def outcome() -> str:
        try:
            return str([(row.line, row.fields) for row in read_rows(path)])
        except HycamError as error:
            return str(error)

    whole = outcome()
    for chunk in range(1, 20):
        with chunks_of(chunk):
            assert outcome() == whole


def most_held(path: Path) -> int:
    """The most bytes that Python held at a time while the rows were read."""
    tracemalloc.start()
    try:
        for _ in read_rows(path):
            pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("kind", "separator"), [("json", ", "), ("json", ",\n"), ("jsonl", "\n")])
def test_no_more_of_a_long_file_is_held_than_a_piece(tmp_path: Path, kind: str, separator: str) -> None:
    row = json.dumps({"instruction": "x" * 2000, "output": "y" * 2000})
    text = separator.join([row] * 6000)
    path = write(tmp_path, (f"[{text}]" if kind == "json" else text).encode(), f"long.{kind}")
    assert path.stat().st_size > 24e6
    assert most_held(path) < 8e6


def test_an_early_error_in_a_long_list_is_reported_before_the_rest_is_read(tmp_path: Path) -> None:
    row = json.dumps({"instruction": "x" * 4000})
    path = write(tmp_path, f'[{{"a": 1 "b": 2}}, {", ".join([row] * 6000)}]'.encode(), "long.json")
    tracemalloc.start()
    try:
        assert failure(path).startswith(f"{path}:1:10: ")
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


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
        ("a.jsonl.gz", zipped_bytes(as_jsonl(ROWS))[:-9], "a.jsonl.gz", "cut off or damaged"),
        ("a.parquet.gz", zipped_bytes(as_parquet(ROWS))[:-9], "a.parquet.gz", "cut off or damaged"),
        ("a.jsonl.gz", zipped_bytes(as_jsonl(ROWS))[:5], "a.jsonl.gz", "cut off or damaged"),
        ("a.jsonl.gz", zipped_bytes(as_jsonl(ROWS)) + b"more", "a.jsonl.gz", "cut off or damaged"),
        ("a.json.gz", zipped_bytes(as_json(ROWS))[:-9], "a.json.gz", "cut off or damaged"),
        ("a.jsonl.gz", zipped_bytes(b""), "a.jsonl.gz", "is empty"),
        ("a.jsonl.gz", zipped_bytes(b'{"a": 1}\n{"a": \n'), "a.jsonl.gz:2:6", "one whole JSON object"),
        ("a.jsonl", b"\xef\xbb\xbf", "a.jsonl", "is empty"),
        ("a.jsonl", b" " * 10_000, "a.jsonl", "is empty"),
        ("a.jsonl", as_jsonl(ROWS).decode().encode("utf-16"), "a.jsonl", "UTF-16"),
        ("a.jsonl", as_jsonl(ROWS).decode().encode("utf-16-le"), "a.jsonl", "UTF-16"),
        ("a.csv", as_csv(ROWS).decode().encode("utf-16-be"), "a.csv", "UTF-16"),
        ("a.csv", as_csv(ROWS).decode().encode("utf-32"), "a.csv", "UTF-16"),
        ("a.csv", b"a,b\n1,2\n1,gr\xfc\xdf\n", "a.csv:3:5", "0xfc is not UTF-8"),
        ("a.json", b'[{"a": "1"},\n {"a": "gr\xfc\xdf"}]', "a.json:2:11", "0xfc is not UTF-8"),
        ("a.json", b'[{"a": "1"}, {"a": "\xe2\x82', "a.json:1:21", "0xe2 is not UTF-8"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "a.jsonl:1", "too many digits"),
        ("a.json", b'[\n{"a": ' + b"1" * 5000 + b"}\n]", "a.json:2:1", "too many digits"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "a.jsonl:1", "nested too deeply"),
        ("a.json", b'[{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]\n", "a.json:1:2", "nested too deeply"),
        ("a.json", b'[\n {"a": 1},\n]', "a.json:3:1", "JSON objects"),
        ("a.json", b"[", "a.json:1:2", "JSON objects"),
        ("a.json", b'[["a", 1]]', "a.json:1", "not a list"),
        ("a.csv", b"a;b\n1,2;3\n", "a.csv:2", "1 cells were expected (a;b), not 2"),
        ("a.csv", b"a,b\n1\n", "a.csv:2", "2 cells were expected (a, b), not 1"),
        ("a.csv", b'a,b\n1,"2"x\n', "a.csv:2", "a row of CSV"),
    ],
)
def test_a_broken_file_is_reported_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str, said: str
) -> None:
    path = write(tmp_path, content, name)
    message = failure(path)
    assert message.startswith(str(tmp_path / place)), message
    assert said in message, message


def test_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["output", "output"])
    pyarrow.parquet.write_table(table, sink)
    assert "two columns have the same name: output, output" in failure(write(tmp_path, sink.getvalue(), "a.parquet"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"\xef", b"\xef\xbb"])
def test_a_part_of_a_byte_order_mark_and_nothing_else_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(HycamError, match=r":1:1: the byte 0xef is not UTF-8"):
        list(read_rows(path, lambda error: None))


def test_text_in_parquet_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    text = pyarrow.array([b"gr\xfc\xdf"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"output": text}), sink)
    assert "cannot be read as Parquet" in failure(write(tmp_path, sink.getvalue(), "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "good", "places"),
    [
        (
            "a.jsonl",
            b'{"a": "1"}\n{"a"\n[]\n{"a": "gr\xfc"}\nnull\n{"a": "2"}\n',
            ["1", "2"],
            ["2:5", "3", "4:10", "5"],
        ),
        ("a.json", b'[{"a": "1"},\n5,\n"x",\n{"a": "2"}]', ["1", "2"], ["2", "3"]),
        ("a.csv", b"a,b\n1,x\n1,x,y\n1\n2,x\n", ["1", "2"], ["3", "4"]),
    ],
)
def test_malformed_rows_are_handed_over_and_the_others_read(
    tmp_path: Path, name: str, content: bytes, good: list[str], places: list[str]
) -> None:
    path, bad = write(tmp_path, content, name), []
    assert [row.fields["a"] for row in read_rows(path, lambda error: bad.append(str(error)))] == good
    assert [error.removeprefix(f"{path}:").split(": ")[0] for error in bad] == places


TWICE = b'[{"a": "1"},\n{"a": "x", "a": "y"},\n{"a": "z", "b": [{"c": 1, "d": 2, "c": 3}]},\n{"a": "2"}]'


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", TWICE), ("a.jsonl", TWICE.replace(b"},\n", b"}\n").strip(b"[]"))]
)
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_a_row_with_a_key_twice_is_malformed_and_the_others_are_read(
    tmp_path: Path, name: str, content: bytes, size: int
) -> None:
    path, bad = write(tmp_path, content, name), []
    with chunks_of(size):
        assert [row.fields for row in read_rows(path, lambda error: bad.append(str(error)))] == [{"a": "1"}, {"a": "2"}]
    assert bad == [
        f'{path}:{line}: an object has the key "{key}" twice, and only the last would be read.'
        for line, key in ((2, "a"), (3, "c"))
    ]
    assert failure(path) == bad[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'[{"a": 1},\n{"a" 2},\n{"a": 3}]'),
        ("a.csv", b'a,b\n1,2\n"1,2\n3,4\n'),
        ("a.csv", b"a,b\n1,2\n1,\xfc\n3,4\n"),
        ("a.jsonl.gz", zipped_bytes(as_jsonl(ROWS))[:-9]),
    ],
)
def test_where_the_next_row_cannot_be_found_nothing_is_skipped(tmp_path: Path, name: str, content: bytes) -> None:
    path, bad = write(tmp_path, content, name), []
    with pytest.raises(HycamError):
        list(read_rows(path, bad.append))
    assert bad == []


def test_items_that_begin_on_one_line_of_a_list_have_identities_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, b'[{"a": 1}, {"a": 2}, {"a": 3},\n{"a": 4}, {"a": 5}]', "rows.json")
    identities = [row.identity for row in read_rows(path)]
    assert identities == ["rows.json:1", "rows.json:1:2", "rows.json:1:3", "rows.json:2", "rows.json:2:2"]


def test_a_damaged_gzip_is_reported_as_such_and_not_as_broken_json(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"instruction": f"q {n}", "output": "a"}) + "\n" for n in range(500)).encode()
    stored = bytearray(
        gzip.compress(rows, compresslevel=0)
    )  # stored as they are, so that a flipped bit stays in its row
    stored[stored.index(b'"q 7"')] ^= 1
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(stored)
    with pytest.raises(HycamError, match=r"damaged: its gzip data cannot be read to the end \(CRC"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("content", [b"\x1f", b"\x1c\x1d\n", b" \x1f {}"])
def test_what_is_white_space_to_python_alone_is_no_row(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HycamError, match="an object in braces"):
        list(read_rows(tmp_path / name))


def test_a_malformed_csv_in_an_intact_archive_is_explained_as_it_is_outside_of_one(tmp_path: Path) -> None:
    text = b'instruction,input,output\nq,,a\n\x00"q, 2","line\nend",a\n'
    said = []
    for name, content in (("a.csv", text), ("a.csv.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HycamError) as error:
            list(read_rows(tmp_path / name))
        said.append(str(error.value).replace(str(tmp_path / name), ""))
    assert said[0] == said[1]
