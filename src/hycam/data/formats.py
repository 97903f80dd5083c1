"""Rows out of a file or a folder of files: JSON lines, a JSON list, CSV or Parquet, each also gzipped.

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
from collections.abc import Callable, Iterator
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
_CHUNK = 1 << 20  # characters of a JSON list that are looked at together
_DEEPEST = "nested too deeply"
_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""What a data file's name ends with, before ``.gz``. A file that is named alone may have any name."""

Bad = Callable[[HycamError], None]
"""What is done about a malformed row: it raises the error, or counts it so that reading goes on."""


def refuse(error: HycamError) -> None:
    """The usual ``Bad``: no malformed row is passed over."""
    raise error


@dataclass(frozen=True)
class SourceRow:
    """One row as it stands in a file.

    ``path`` is the file (or the hub repository), ``line`` the line on which the row begins, counted from 1 (in Parquet
    and on the hub, which have no lines, the number of the row), ``fields`` the values by column name, and ``label``
    what the file is called in the row's identity: by default its name without folders.
    """

    path: str
    line: int
    fields: dict[str, Any]
    label: str = ""

    @property
    def identity(self) -> str:
        """``file.jsonl:17``: the same on every machine, and whether or not the file is gzipped."""
        return f"{self.label or label_of(Path(self.path).name)}:{self.line}"

    def inside(self, column: str) -> SourceRow:
        """The object in ``column``, at the same place.

        Raises:
            HycamError: there is no such column, or it holds no object.
        """
        found = self.fields.get(column)
        if not isinstance(found, dict):
            raise self.error(f'"{column}" was expected to hold an object')
        return SourceRow(self.path, self.line, found, self.label)

    def value(self, column: str) -> Any:
        """Whatever is in ``column``; raises HycamError where there is no such column."""
        if column not in self.fields:
            known = ", ".join(map(str, self.fields)) or "none"
            raise self.error(f'there is no column "{column}".{nearest(column, self.fields)} Columns: {known}')
        return self.fields[column]

    def text(self, column: str) -> str:
        """The text in ``column``; null is read as empty, as most writers of Parquet and JSON mean it.

        Raises:
            HycamError: there is no such column, or it holds something other than text.
        """
        value = self.value(column)
        return "" if value is None else self.checked(f'"{column}"', value)

    def checked(self, what: str, value: Any) -> str:
        """``value``, which has to be text; raises HycamError that calls it ``what`` where it is not."""
        if not isinstance(value, str):
            kind = "null" if value is None else _KINDS.get(type(value), f"of type {type(value).__name__}")
            shown = "" if value is None else f" ({str(value)[:40]})"
            raise self.error(f"{what} is {kind}{shown}, text in quotes was expected")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{what} holds half of a character (\\u{ord(value[error.start]):04x})") from None
        return value

    def error(self, what: str) -> HycamError:
        """The error that names this row's place."""
        return HycamError(f"{self.path}:{self.line}: {what}.")


def label_of(name: str) -> str:
    """A file's name in the identity of its rows: whether it is gzipped makes no difference."""
    return name.removesuffix(".gz")


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder and its subfolders, in the order of their names.

    Raises:
        HycamError: there is nothing there, or no data file in the folder.
    """
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and label_of(file.name).endswith(ENDINGS)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise HycamError(f"{path} has no data file: {', '.join(ENDINGS)} (each also .gz) were looked for.")
    return found


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
        yield SourceRow(row.path, row.line, row.fields, label) if label else row


def _read(path: Path, bad: Bad) -> Iterator[SourceRow]:
    try:
        with path.open("rb") as file:
            head = file.read(len(_GZIP))
        with gzip.open(path) if head == _GZIP else path.open("rb") as content:
            yield from _rows(path, content, bad)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HycamError(f"{path} is cut off or damaged: its gzip data cannot be read to the end ({error}).") from error
    except OSError as error:
        raise HycamError(f"{path} cannot be read: {error.strerror or error}.") from error


def _rows(path: Path, content: BinaryIO | gzip.GzipFile, bad: Bad) -> Iterator[SourceRow]:
    if content.read(len(_PARQUET)) == _PARQUET:
        content.seek(0)
        yield from _parquet(path, content)
        return
    content.seek(0)
    name = label_of(path.name)
    if name.endswith(".parquet"):
        raise HycamError(f"{path} is not Parquet, which begins with {_PARQUET.decode()}: it is damaged or misnamed.")
    lines = _lines(path, content)
    first = next(lines, None)
    if first is None:
        raise HycamError(f"{path} is empty: at least one row was expected.")
    opening = first[1].lstrip()[:1]
    if opening == b"[":
        yield from _json_list(path, _decoded(path, chain([first], lines)), bad)
    elif opening == b"{":
        yield from _json_lines(path, chain([first], lines), bad)
    elif name.endswith((".jsonl", ".json")):
        number, text = next(_decoded(path, iter([first])))
        found = text.lstrip()[0]
        raise HycamError(f"{path}:{number}:1: an object in braces (or a list of them) was expected, not {found!r}.")
    else:
        yield from _csv(path, _decoded(path, chain([first], lines)), first[0], bad)


def _lines(path: Path, content: BinaryIO | gzip.GzipFile) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line, its end kept. Blank lines before the first row are passed over."""
    begun = False
    for number, raw in enumerate(content, 1):
        if number == 1:
            if raw.startswith(_OTHER_UNICODE):
                raise HycamError(f"{path} is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8) and try again.")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
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
        raise HycamError(
            f"{path}:{number}:{error.start + 1}: the byte 0x{raw[error.start]:02x} is not UTF-8. If the file is in "
            "another encoding, convert it (for example iconv -f WINDOWS-1252 -t UTF-8) and try again."
        ) from None


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
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HycamError(
            f"{path}:{number}:{error.colno}: one whole JSON object on the line was expected ({error.msg})."
        ) from None
    except RecursionError:
        raise HycamError(f"{path}:{number}: the object is {_DEEPEST}.") from None


def _json_list(path: Path, lines: Iterator[tuple[int, str]], bad: Bad) -> Iterator[SourceRow]:
    """The items of a list, of which no more is held at a time than the longest of them needs."""
    list_ = _OpenList(path, lines)
    while (item := list_.next_item()) is not None:
        line, value = item
        try:
            row = SourceRow(str(path), line, _object(f"{path}:{line}", value))
        except HycamError as error:
            bad(error)
        else:
            yield row


class _OpenList:
    """A JSON list that is read piece by piece: ``text`` is what of the file is at hand, ``at`` the place in it."""

    def __init__(self, path: Path, lines: Iterator[tuple[int, str]]) -> None:
        self.path = path
        self.lines = lines
        self.decoder = json.JSONDecoder()
        self.line, self.text = next(lines)
        self.counted = 0  # ``line`` is that of this place in ``text``, so that counting line ends stays linear
        self.column = 0  # characters before ``text`` on its first line
        self.at = self.text.index("[") + 1
        self.is_first = True

    def next_item(self) -> tuple[int, Any] | None:
        """The line on which the next item begins, and the item; None after the last one, and after it nothing."""
        character = self._peek()
        if not self.is_first and character not in (",", "]"):
            raise self._error(self.at, 'a comma or the "]" that closes the list was expected')
        if not self.is_first and character == ",":
            self.at += 1
            character = self._peek()
        if character == "]":
            self.at += 1
            if self._peek():
                raise self._error(self.at, "nothing was expected after the list")
            return None
        self.is_first = False
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self._read(len(self.text)):
                    raise self._error(error.pos, f"a list of JSON objects was expected ({error.msg})") from None
            except RecursionError:
                raise self._error(self.at, f"the object is {_DEEPEST}") from None
            else:
                line = self._line_at(self.at)
                self.at = end
                return line, value

    def _peek(self) -> str:
        """The next character that is no white space, or nothing at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None  # the pattern matches the empty string
            self.at = match.end()
            if self.at < len(self.text) or not self._read(_CHUNK):
                return self.text[self.at : self.at + 1]

    def _read(self, least: int) -> bool:
        """Lets go of what was read and appends so many characters, or what is left; whether there was anything."""
        pieces, length = [], 0
        for _, line in self.lines:
            pieces.append(line)
            length += len(line)
            if length >= max(least, _CHUNK):
                break
        if pieces:
            self.line, last = self._line_at(self.at), self.text.rfind("\n", 0, self.at)
            self.column = self.at - last - 1 if last >= 0 else self.column + self.at
            self.text = "".join((self.text[self.at :], *pieces))
            self.at = self.counted = 0
        return bool(pieces)

    def _line_at(self, place: int) -> int:
        self.line += self.text.count("\n", self.counted, place)
        self.counted = place
        return self.line

    def _error(self, place: int, what: str) -> HycamError:
        last = self.text.rfind("\n", 0, place)
        column = place - last if last >= 0 else self.column + place + 1
        return HycamError(f"{self.path}:{self._line_at(place)}:{column}: {what}.")


def _csv(path: Path, lines: Iterator[tuple[int, str]], begins: int, bad: Bad) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, is less than a long passage
    reader = csv.reader((line for _, line in lines), strict=True)
    before = begins - 1
    header: list[str] | None = None
    start = before + 1
    try:
        for cells in reader:
            if header is None:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    raise HycamError(f"{path}:{start}: two columns have the same name: {', '.join(header)}.")
            elif cells:
                if len(cells) == len(header):
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
        number = 0
        for batch in pyarrow.parquet.ParquetFile(source).iter_batches():
            for fields in batch.to_pylist():
                number += 1
                yield SourceRow(str(path), number, fields)
    except pyarrow.ArrowException as error:
        raise HycamError(f"{path} is cut off or damaged: it cannot be read as Parquet ({error}).") from error


def _object(place: str, fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        kind = "null" if fields is None else _KINDS.get(type(fields), "text")
        raise HycamError(f"{place}: an object with named fields was expected, not {kind}.")
    return fields
