"""Rows out of a file: JSON lines, a JSON list, CSV or Parquet, each also gzipped.

The format is recognised by what the file begins with. Only a file that is plainly not what its name says (a ``.jsonl``
that begins with neither a brace nor a bracket, a ``.parquet`` without its mark) is refused by its name: it would pass
for CSV otherwise.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import string
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from hycam.data.folders import unreadable
from hycam.data.json_list import TOO_DEEP, TOO_LONG, OpenList, key_twice, keys_once
from hycam.data.source_row import Bad, SourceRow, kind_of, label_of, refuse
from hycam.errors import HycamError

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks of UTF-16 (and, little-endian, of UTF-32)
_MARK = b"\xef\xbb\xbf"  # that of UTF-8
_CHUNK = 1 << 20  # bytes of a JSON list that are read together
_PARQUET_ROWS = 1000  # that are held as Python objects


def read_rows(path: str | Path, bad: Bad = refuse, label: str = "") -> Iterator[SourceRow]:
    """The rows of a file in its own order, read as they are asked for.

    A byte order mark, either kind of line end and blank lines are accepted. Text is UTF-8.

    Args:
        path: the file.
        bad: is given the error of a malformed row where the next row can be found all the same: a line of JSON lines,
            an item of a JSON list that is no object, a row of CSV with too many or too few cells.
        label: see ``SourceRow``.

    Raises:
        HycamError: the file is missing, empty, cut off, in another encoding, or malformed; the message has file, line
            and column, and what was expected there.
    """
    path = Path(path)
    for row in _read(path, bad):
        yield replace(row, label=label) if label else row


def _read(path: Path, bad: Bad) -> Iterator[SourceRow]:
    try:
        with path.open("rb") as file:
            head = file.read(len(_GZIP))
        with gzip.open(path) if head == _GZIP else path.open("rb") as content:
            try:
                yield from _rows(path, content, bad)
            except HycamError:
                if head == _GZIP:  # unpacked to its end, a damaged archive says so itself
                    while content.read(_CHUNK):
                        pass
                raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HycamError(f"{path} is cut off or damaged: its gzip data cannot be read to the end ({error}).") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _rows(path: Path, content: BinaryIO | gzip.GzipFile, bad: Bad) -> Iterator[SourceRow]:
    name = label_of(path.name).lower()
    head = content.read(4)
    opening = head.removeprefix(_MARK).lstrip()[:1]
    while not opening and (piece := content.read(4096)):
        opening = piece.lstrip()[:1]
    content.seek(0)
    if head == _PARQUET:
        yield from _parquet(path, content)
    elif name.endswith(".parquet"):
        raise HycamError(f"{path} is not Parquet, which begins with {_PARQUET.decode()}: it is damaged or misnamed.")
    elif head.startswith(_OTHER_UNICODE) or b"\0" in head:
        raise HycamError(
            f"{path} is UTF-16 (or no text at all), not UTF-8: convert it (iconv -f UTF-16 -t UTF-8) and try again."
        )
    elif not opening:
        raise HycamError(f"{path} is empty: at least one row was expected.")
    elif opening == b"[":
        yield from _json_list(path, _pieces(path, content), bad)
    elif opening == b"{":
        yield from _json_lines(path, _lines(content), bad)
    elif name.endswith((".jsonl", ".json")):
        number, text = next(_decoded(path, _lines(content)))
        found = text.lstrip(string.whitespace)[0]  # as bytes are stripped above: of text Python takes more for white
        raise HycamError(f"{path}:{number}:1: an object in braces (or a list of them) was expected, not {found!r}.")
    else:
        yield from _csv(path, _decoded(path, _lines(content)), bad)


def _lines(content: BinaryIO | gzip.GzipFile) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line, its end kept. Blank lines before the first row are passed over."""
    begun = False
    for number, raw in enumerate(content, 1):
        if number == 1:
            raw = raw.removeprefix(_MARK)
        begun = begun or bool(raw.strip())
        if begun:
            yield number, raw


def _decoded(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    for number, raw in lines:
        yield number, _text(path, number, raw)


def _text(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error.start + 1, raw[error.start]) from None


def _pieces(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    """The text, so much at a time as is read together: a file may be one long line."""
    rest, line, column = content.read(len(_MARK)).removeprefix(_MARK), 1, 1  # where ``rest`` begins
    is_last = False
    while not is_last:
        raw = content.read(_CHUNK)
        is_last = not raw
        rest += raw
        try:
            text, used = codecs.utf_8_decode(rest, "strict", is_last)
        except UnicodeDecodeError as error:
            before = rest[: error.start]
            line, column = _after(before, line, column)
            raise _not_utf8(path, line, column, rest[error.start]) from None
        line, column = _after(rest[:used], line, column)
        rest = rest[used:]
        yield text


def _after(text: bytes, line: int, column: int) -> tuple[int, int]:
    """Line and column of what comes after ``text``, which begins at the given ones."""
    last = text.rfind(b"\n")
    return line + text.count(b"\n"), column + len(text) if last < 0 else len(text) - last


def _not_utf8(path: Path, line: int, column: int, byte: int) -> HycamError:
    return HycamError(
        f"{path}:{line}:{column}: the byte 0x{byte:02x} is not UTF-8. If the file is in another encoding, convert it "
        "(for example iconv -f WINDOWS-1252 -t UTF-8) and try again."
    )


def _json_lines(path: Path, lines: Iterator[tuple[int, bytes]], bad: Bad) -> Iterator[SourceRow]:
    for number, raw in lines:
        if not raw.strip():
            continue
        try:
            row = SourceRow(str(path), number, _object(f"{path}:{number}", _json(path, number, raw)))
        except HycamError as error:
            bad(error)
        else:
            yield row


def _json(path: Path, number: int, raw: bytes) -> Any:
    text = _text(path, number, raw)
    try:
        return json.loads(text, object_pairs_hook=keys_once)
    except HycamError as error:
        raise HycamError(f"{path}:{number}: {error}.") from None
    except json.JSONDecodeError as error:
        column = min(error.pos, len(text.rstrip())) + 1  # not behind the line's end, where white space was skipped
        raise HycamError(
            f"{path}:{number}:{column}: one whole JSON object on the line was expected ({error.msg})."
        ) from None
    except ValueError:  # of int(), which takes no more than some thousands of digits
        raise HycamError(f"{path}:{number}: {TOO_LONG}.") from None
    except RecursionError:
        raise HycamError(f"{path}:{number}: the object is {TOO_DEEP}.") from None


def _json_list(path: Path, pieces: Iterator[str], bad: Bad) -> Iterator[SourceRow]:
    """The items of a list, of which no more is held at a time than the longest of them needs."""
    list_ = OpenList(path, pieces)
    before = number = 0
    while (item := list_.next_item()) is not None:
        line, value = item
        number = number + 1 if line == before else 1
        before = line
        try:
            if list_.twice is not None:
                raise HycamError(f"{path}:{line}: {key_twice(list_.twice)}.")
            row = SourceRow(str(path), line, _object(f"{path}:{line}", value), number=number)
        except HycamError as error:
            bad(error)
        else:
            yield row


def _csv(path: Path, lines: Iterator[tuple[int, str]], bad: Bad) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, is less than a long passage
    first = next(lines)
    before = first[0] - 1
    reader = csv.reader((line for _, line in chain([first], lines)), strict=True)
    header: list[str] | None = None
    start = before + 1
    try:
        for cells in reader:
            if header is None:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    raise HycamError(f"{path}:{start}: two columns have the same name: {', '.join(header)}.")
            elif cells:
                if len(cells) == 1 < len(header) and not cells[0].strip():
                    pass  # a blank line
                elif len(cells) == len(header):
                    yield SourceRow(str(path), start, dict(zip(header, cells, strict=True)))
                else:
                    bad(
                        HycamError(
                            f"{path}:{start}: {len(header)} cells were expected ({', '.join(header)}), not "
                            f"{len(cells)}. A cell with a comma or a line end in it belongs in double quotes."
                        )
                    )
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise HycamError(f"{path}:{start}: a row of CSV was expected ({error}).") from None


def _parquet(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[SourceRow]:
    # Parquet is read from its end, for which a gzip stream would be unpacked again and again: unpack it once.
    source = io.BytesIO(content.read()) if isinstance(content, gzip.GzipFile) else content
    try:
        file = pyarrow.parquet.ParquetFile(source)
        names = file.schema_arrow.names
        if len(set(names)) == len(names):
            number = 0
            for batch in file.iter_batches(_PARQUET_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield SourceRow(str(path), number, fields)
            return
    # ValueError and OverflowError: a value that Python cannot hold, such as text that is not UTF-8 or a year 300000.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise HycamError(f"{path} is cut off or damaged: it cannot be read as Parquet ({error}).") from error
    raise HycamError(f"{path}: two columns have the same name: {', '.join(names)}.")


def _object(place: str, fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise HycamError(f"{place}: an object with named fields was expected, not {kind_of(fields)}.")
    return fields
