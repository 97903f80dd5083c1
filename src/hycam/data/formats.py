"""Rows out of a file: JSON lines, a JSON list, CSV or Parquet, each also gzipped.

The format is recognised by what the file begins with. Only a file that is plainly not what its name says (a ``.jsonl``
that begins with neither a brace nor a bracket, a ``.parquet`` without its mark) is refused by its name: it would pass
for CSV otherwise.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from hycam.errors import HycamError, nearest

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks of UTF-16 (and, little-endian, of UTF-32)
_SPACE = re.compile(r"\s*")
_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class SourceRow:
    """One row as it stands in a file.

    ``path`` is the file (or the hub repository), ``line`` the line on which the row begins, counted from 1 (in Parquet
    and on the hub, which have no lines, the number of the row), ``fields`` the values by column name.
    """

    path: str
    line: int
    fields: dict[str, Any]

    @property
    def identity(self) -> str:
        """``file.jsonl:17``: the same on every machine, and whether or not the file is gzipped."""
        return f"{Path(self.path).name.removesuffix('.gz')}:{self.line}"

    def text(self, column: str) -> str:
        """The text in ``column``; null is read as empty, as most writers of Parquet and JSON mean it.

        Raises:
            HycamError: there is no such column, or it holds something other than text.
        """
        if column not in self.fields:
            known = ", ".join(self.fields) or "none"
            raise self.error(f'there is no column "{column}".{nearest(column, self.fields)} Columns: {known}')
        value = self.fields[column]
        if value is None:
            return ""
        if not isinstance(value, str):
            kind = _KINDS.get(type(value), f"of type {type(value).__name__}")
            raise self.error(f'"{column}" is {kind} ({str(value)[:40]}), text in quotes was expected')
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f'"{column}" holds half of a character (\\u{ord(value[error.start]):04x})') from None
        return value

    def error(self, what: str) -> HycamError:
        """The error that names this row's place."""
        return HycamError(f"{self.path}:{self.line}: {what}.")


def read_rows(path: str | Path) -> Iterator[SourceRow]:
    """The rows of a file in its own order, read as they are asked for (a JSON list is read whole).

    A byte order mark, either kind of line end and blank lines are accepted. Text is UTF-8.

    Raises:
        HycamError: the file is missing, empty, cut off, in another encoding, or malformed; the message has file, line
            and column, and what was expected there.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(len(_GZIP))
        with gzip.open(path) if head == _GZIP else path.open("rb") as content:
            yield from _rows(path, content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HycamError(f"{path} is cut off or damaged: its gzip data cannot be read to the end ({error}).") from error
    except OSError as error:
        raise HycamError(f"{path} cannot be read: {error.strerror or error}.") from error


def _rows(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[SourceRow]:
    if content.read(len(_PARQUET)) == _PARQUET:
        content.seek(0)
        yield from _parquet(path, content)
        return
    content.seek(0)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        raise HycamError(f"{path} is not Parquet, which begins with {_PARQUET.decode()}: it is damaged or misnamed.")
    lines = _lines(path, content)
    first = next(lines, None)
    if first is None:
        raise HycamError(f"{path} is empty: at least one row was expected.")
    opening = first[1].lstrip()[0]
    if opening == "[":
        yield from _json_list(path, first, lines)
    elif opening == "{":
        yield from _json_lines(path, first, lines)
    elif name.endswith((".jsonl", ".json")):
        raise HycamError(f"{path}:{first[0]}:1: an object in braces (or a list of them) was expected, not {opening!r}.")
    else:
        yield from _csv(path, first, lines)


def _lines(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[tuple[int, str]]:
    """Number and text of each line, its end kept. Blank lines before the first row are passed over."""
    begun = False
    for number, raw in enumerate(content, 1):
        if number == 1:
            if raw.startswith(_OTHER_UNICODE):
                raise HycamError(f"{path} is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8) and try again.")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise HycamError(
                f"{path}:{number}:{error.start + 1}: the byte 0x{raw[error.start]:02x} is not UTF-8. If the file is in "
                "another encoding, convert it (for example iconv -f WINDOWS-1252 -t UTF-8) and try again."
            ) from None
        begun = begun or bool(line.strip())
        if begun:
            yield number, line


def _json_lines(path: Path, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[SourceRow]:
    for number, line in chain([first], rest):
        if line.strip():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise HycamError(
                    f"{path}:{number}:{error.colno}: one whole JSON object on the line was expected ({error.msg})."
                ) from None
            yield SourceRow(str(path), number, _object(f"{path}:{number}", fields))


def _json_list(path: Path, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[SourceRow]:
    line, opening = first
    text = opening + "".join(later for _, later in rest)
    decoder = json.JSONDecoder()
    counted = 0  # line ends up to here are in ``line``, so that counting them stays linear in the length of the file

    def error(at: int, what: str) -> HycamError:
        place = f"{path}:{line + text.count(chr(10), counted, at)}:{at - text.rfind(chr(10), 0, at)}"
        return HycamError(f"{place}: {what}.")

    at = _skip(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        try:
            fields, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as problem:
            raise error(problem.pos, f"a list of JSON objects was expected ({problem.msg})") from None
        yield SourceRow(str(path), line, _object(f"{path}:{line}", fields))
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise error(at, 'a comma or the "]" that closes the list was expected')
    after = _skip(text, at + 1)
    if after != len(text):
        raise error(after, "nothing was expected after the list")


def _csv(path: Path, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, is less than a long passage
    reader = csv.reader((line for _, line in chain([first], rest)), strict=True)
    before = first[0] - 1
    header: list[str] | None = None
    start = before + 1
    try:
        for cells in reader:
            if header is None:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    raise HycamError(f"{path}:{start}: two columns have the same name: {', '.join(header)}.")
            elif cells:
                if len(cells) != len(header):
                    raise HycamError(
                        f"{path}:{start}: {len(header)} cells were expected ({', '.join(header)}), not {len(cells)}. "
                        "A cell with a comma or a line end in it belongs in double quotes."
                    )
                yield SourceRow(str(path), start, dict(zip(header, cells, strict=True)))
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise HycamError(f"{path}:{start}: a row of CSV was expected ({error}).") from None


def _parquet(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[SourceRow]:
    # Parquet is read from its end, for which a gzip stream would be unpacked again and again: unpack it once.
    source = io.BytesIO(content.read()) if isinstance(content, gzip.GzipFile) else content
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(source).iter_batches():
            for fields in batch.to_pylist():
                number += 1
                yield SourceRow(str(path), number, fields)
    except pyarrow.ArrowException as error:
        raise HycamError(f"{path} is cut off or damaged: it cannot be read as Parquet ({error}).") from error


def _skip(text: str, at: int) -> int:
    """The position of the next character that is not white space."""
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def _object(place: str, fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        kind = "null" if fields is None else _KINDS.get(type(fields), "text")
        raise HycamError(f"{place}: an object with named fields was expected, not {kind}.")
    return fields
