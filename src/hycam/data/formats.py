"""Rows out of a file or a folder of files: JSON lines, a JSON list, CSV or Parquet, each also gzipped.

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
import logging
import re
import reprlib
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

_log = logging.getLogger(__name__)

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks of UTF-16 (and, little-endian, of UTF-32)
_MARK = b"\xef\xbb\xbf"  # that of UTF-8
_SPACE = re.compile(r"\s*")
_CHUNK = 1 << 20  # bytes of a JSON list that are read together
_CUT = 16  # more characters than a number, a word or an escape of JSON may lack at the end of what was read
_PARQUET_ROWS = 1000  # that are held as Python objects
_DEEPEST = "nested too deeply"
_LONGEST = "there is a number of too many digits"
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
            raise self.error(f'there is no column "{column}".{nearest(column, map(str, self.fields))} Columns: {known}')
        return self.fields[column]

    def text(self, column: str) -> str:
        """The text in ``column``; null is read as empty, as most writers of Parquet and JSON mean it.

        Raises:
            HycamError: there is no such column, or it holds something other than text.
        """
        value = self.value(column)
        return "" if value is None else self.checked(f'"{column}"', value)

    def number(self, column: str) -> int | float:
        """The number in ``column``; raises HycamError where there is none."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f'"{column}" is {kind_of(value)}, a number was expected')
        return value

    def first(self, column: str) -> str:
        """The first text of the list in ``column``; raises HycamError where there is none."""
        value = self.value(column)
        if not (isinstance(value, list) and value):
            raise self.error(f'"{column}" was expected to hold a list of texts')
        return self.checked(f'the first of "{column}"', value[0])

    def checked(self, what: str, value: Any) -> str:
        """``value``, which has to be text; raises HycamError that calls it ``what`` where it is not."""
        if not isinstance(value, str):
            raise self.error(f"{what} is {kind_of(value)}, text in quotes was expected")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{what} holds half of a character (\\u{ord(value[error.start]):04x})") from None
        return value

    def error(self, what: str) -> HycamError:
        """The error that names this row's place."""
        return HycamError(f"{self.path}:{self.line}: {what}.")


def kind_of(value: object) -> str:
    """What a value is, and the beginning of it."""
    if value is None:
        return "null"
    return f"{_KINDS.get(type(value), f'of type {type(value).__name__}')} ({reprlib.repr(value)})"


def label_of(name: str) -> str:
    """A file's name in the identity of its rows: whether it is gzipped makes no difference."""
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name


def is_data_file(name: str) -> bool:
    """Whether a file is one of data by its name."""
    return label_of(name).lower().endswith(ENDINGS)


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder and its subfolders, in the order of their names.

    Hidden ones are none; files that are passed over for their names are logged.

    Raises:
        HycamError: there is no data file in the folder, part of it cannot be read, or it contains itself by a link;
            the path is a pipe or a device, which could not be read twice.
    """
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise HycamError(f"{path} is neither a file nor a folder: write its rows into a file.")
            return [path]
        files = list(_below(path, ()))
    except OSError as error:
        raise _unreadable(path, error) from error
    found = [file for file in files if is_data_file(file.name)]
    if not found:
        raise HycamError(f"{path} has no data file: {', '.join(ENDINGS)} (each also .gz) were looked for.")
    others = [file.relative_to(path).as_posix() for file in files if not is_data_file(file.name)]
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        _log.warning("%s: files that are none of data by their names are passed over: %s", path, named)
    return found


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise HycamError(f"{folder} is a link to a folder that it is in: remove it.")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, (*above, here))
        else:
            yield entry


def _unreadable(path: Path, error: OSError) -> HycamError:
    return HycamError(f"{error.filename or path} cannot be read: {error.strerror or error}.")


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
        raise _unreadable(path, error) from error


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
        found = text.lstrip()[0]
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
        return json.loads(text)
    except json.JSONDecodeError as error:
        column = min(error.pos, len(text.rstrip())) + 1  # not behind the line's end, where white space was skipped
        raise HycamError(
            f"{path}:{number}:{column}: one whole JSON object on the line was expected ({error.msg})."
        ) from None
    except ValueError:  # of int(), which takes no more than some thousands of digits
        raise HycamError(f"{path}:{number}: {_LONGEST}.") from None
    except RecursionError:
        raise HycamError(f"{path}:{number}: the object is {_DEEPEST}.") from None


def _json_list(path: Path, pieces: Iterator[str], bad: Bad) -> Iterator[SourceRow]:
    """The items of a list, of which no more is held at a time than the longest of them needs."""
    list_ = _OpenList(path, pieces)
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

    def __init__(self, path: Path, pieces: Iterator[str]) -> None:
        self.path = path
        self.pieces = pieces
        self.decoder = json.JSONDecoder()
        self.line, self.text = 1, ""
        self.counted = 0  # ``line`` is that of this place in ``text``, so that counting line ends stays linear
        self.column = 0  # characters before ``text`` on its first line
        self.at = 0
        self.is_first = True
        self._peek()
        self.at += 1  # the bracket

    def next_item(self) -> tuple[int, Any] | None:
        """The line on which the next item begins, and the item; None after the last one, and after it nothing."""
        character = self._peek()
        if not self.is_first and character not in (",", "]"):
            raise self._error(self.at, 'a comma or the "]" that closes the list was expected')
        if not self.is_first and character == ",":
            self.at += 1
            if self._peek() == "]":
                raise self._error(self.at, "a list of JSON objects was expected (nothing follows the comma)")
        elif character == "]":
            self.at += 1
            if self._peek():
                raise self._error(self.at, "nothing was expected after the list")
            return None
        self.is_first = False
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Whether it goes on in what was not read yet; else all the rest would be read to find the same error.
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if not (is_cut and self._read(len(self.text) - self.at)):
                    raise self._error(error.pos, f"a list of JSON objects was expected ({error.msg})") from None
            except ValueError:
                raise self._error(self.at, _LONGEST) from None
            except RecursionError:
                raise self._error(self.at, f"the object is {_DEEPEST}") from None
            else:
                if isinstance(value, int | float) and end > len(self.text) - _CUT and self._read(_CHUNK):
                    continue  # the number may have further digits
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
        for piece in self.pieces:
            pieces.append(piece)
            length += len(piece)
            if length >= least:
                break
        if length:
            self.line, last = self._line_at(self.at), self.text.rfind("\n", 0, self.at)
            self.column = self.at - last - 1 if last >= 0 else self.column + self.at
            self.text = "".join((self.text[self.at :], *pieces))
            self.at = self.counted = 0
        return bool(length)

    def _line_at(self, place: int) -> int:
        self.line += self.text.count("\n", self.counted, place)
        self.counted = place
        return self.line

    def _error(self, place: int, what: str) -> HycamError:
        last = self.text.rfind("\n", 0, place)
        column = place - last if last >= 0 else self.column + place + 1
        return HycamError(f"{self.path}:{self._line_at(place)}:{column}: {what}.")


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
        kind = "null" if fields is None else _KINDS.get(type(fields), "text")
        raise HycamError(f"{place}: an object with named fields was expected, not {kind}.")
    return fields
