"""The data files of a folder, and rows out of a file: JSON lines, a JSON list, CSV or Parquet, each also gzipped.

The format is recognised by how the file begins. Only a file that is clearly not what its name says (a ``.jsonl`` that
begins with neither a brace nor a bracket, a ``.parquet`` without its magic number) is refused: it would be read as CSV
otherwise.

``datasets.load_dataset`` is not used for files: it reports neither the line of a row nor the place of an error, and
cannot skip a bad row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import string
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from hycam.data.json_list import TOO_DEEP, TOO_LONG, OpenList, Pairs
from hycam.data.rows import Bad, SourceRow, kind_of, label_of, refuse
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""What a data file's name ends with, before ``.gz``. A file named on its own may have any name."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks of UTF-16 (and, little-endian, of UTF-32)
_MARK = b"\xef\xbb\xbf"  # that of UTF-8
_CHUNK = 1 << 20  # characters of a JSON list to read at a time
_PARQUET_ROWS = 1000  # held as Python objects at a time

Content = BinaryIO | gzip.GzipFile
Found = tuple[int, Any]
"""The line of a row, and the row: an object, or the error of one after which reading can go on."""


def read_rows(path: str | Path, bad: Bad = refuse, label: str = "") -> Iterator[SourceRow]:
    """The rows of a file in order, read lazily.

    Text is UTF-8. A byte order mark, either kind of line end and blank lines are accepted.

    Args:
        path: the file.
        bad: gets the error of a malformed row if the next row can still be found: a line of JSON lines, an item of a
            JSON list that is not an object, a row of CSV with too many or too few cells.
        label: see ``SourceRow``.

    Raises:
        HycamError: the file is missing, empty, cut off, in another encoding, or malformed; the message has file, line
            and column, and what was expected.
    """
    path = Path(path)
    before = number = 0
    try:
        with _opened(path) as content:
            try:
                for line, found in _found(path, content):
                    number = number + 1 if line == before else 1
                    before = line
                    if isinstance(found, dict):
                        yield SourceRow(str(path), line, found, label, number)
                    elif isinstance(found, HycamError):
                        bad(found)
                    else:
                        what = f"an object with named fields was expected, not {kind_of(found)}"
                        bad(HycamError(f"{path}:{line}: {what}."))
            except HycamError:
                if isinstance(content, gzip.GzipFile):  # read to its end, a damaged archive reports itself
                    while content.read(_CHUNK):
                        pass
                raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HycamError(f"{path} is cut off or damaged: its gzip data cannot be read to the end ({error}).") from error
    except OSError as error:
        raise unreadable(path, error) from error


def is_data_file(name: str) -> bool:
    """Whether a file name is that of a data file."""
    return label_of(name).lower().endswith(ENDINGS)


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder and its subfolders, in the order of their names.

    Hidden files are skipped; other files that are skipped because of their names are logged.

    Raises:
        HycamError: the folder has no data file, cannot be read, or contains itself through a link; the path is a pipe
            or a device, which cannot be read twice.
    """
    try:
        if not path.is_dir():
            if path.exists() and not path.is_file():
                raise HycamError(f"{path} is neither a file nor a folder: write its rows into a file.")
            return [path]
        files = list(_below(path, ()))
    except OSError as error:
        raise unreadable(path, error) from error
    found = [file for file in files if is_data_file(file.name)]
    if not found:
        raise HycamError(f"{path} has no data file: {', '.join(ENDINGS)} (each also .gz) were looked for.")
    others = [file.relative_to(path).as_posix() for file in files if not is_data_file(file.name)]
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        _log.warning("%s: skipped files whose names are not those of data files: %s", path, named)
    return found


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise HycamError(f"{folder} is a link to a folder that contains it: remove it.")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, (*above, here))
        else:
            yield entry


def unreadable(path: Path, error: OSError) -> HycamError:
    """An error that names what could not be read, and why."""
    return HycamError(f"{error.filename or path} cannot be read: {error.strerror or error}.")


def _opened(path: Path) -> Content:
    with path.open("rb") as file:
        head = file.read(len(_GZIP))
    return gzip.open(path) if head == _GZIP else path.open("rb")


def _found(path: Path, content: Content) -> Iterator[Found]:
    name = label_of(path.name).lower()
    head = content.read(4)
    opening = head.removeprefix(_MARK).lstrip()[:1]
    while not opening and (piece := content.read(4096)):
        opening = piece.lstrip()[:1]
    content.seek(len(_MARK) if head.startswith(_MARK) else 0)
    if head == _PARQUET:
        return _parquet(path, content)
    if name.endswith(".parquet"):
        raise HycamError(f"{path} is not Parquet, which begins with {_PARQUET.decode()}: it is damaged or misnamed.")
    if head.startswith(_OTHER_UNICODE) or b"\0" in head:
        raise HycamError(
            f"{path} is UTF-16 (or no text at all), not UTF-8: convert it (iconv -f UTF-16 -t UTF-8) and try again."
        )
    if not opening:
        raise HycamError(f"{path} is empty: at least one row was expected.")
    if opening == b"{":
        return _json_lines(path, content)
    return _text_rows(path, content, is_list=opening == b"[", is_json=name.endswith((".jsonl", ".json")))


def _json_lines(path: Path, content: Content) -> Iterator[Found]:
    for number, line in enumerate(content, 1):
        if line.strip():
            try:
                found = parsed(path, decoded(path, line, number), "one whole JSON object on the line", number)
            except HycamError as error:
                found = error
            yield number, found


def _text_rows(path: Path, content: Content, is_list: bool, is_json: bool) -> Iterator[Found]:
    """The rows of a JSON list or of CSV; after a byte that is not UTF-8 no further row can be found."""
    # Lines end at "\n" only, so that their numbers match an editor's.
    text = io.TextIOWrapper(content, "utf-8", newline="\n")
    try:
        if is_list:
            yield from OpenList(path, text, _CHUNK, _keys_once).items()
        else:
            # Blank lines at the beginning are skipped. Only ASCII white space counts: str.strip() would strip more.
            lines = dropwhile(lambda one: not one[1].strip(string.whitespace), enumerate(text, 1))
            number, first = next(lines)
            if is_json:
                what = (
                    f"an object in braces (or a list of them) was expected, not {first.lstrip(string.whitespace)[0]!r}"
                )
                raise HycamError(f"{path}:{number}:1: {what}.")
            yield from _csv(path, number, chain([first], (line for _, line in lines)))
    except UnicodeDecodeError:
        with _opened(path) as again:
            for number, raw in enumerate(again, 1):
                decoded(path, raw, number)
        raise
    finally:
        text.detach()  # else it closes the content, which is read to its end if a row is refused


def _csv(path: Path, begin: int, lines: Iterator[str]) -> Iterator[Found]:
    """Rows of CSV; ``begin`` is the number of its first line."""
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, is too small for a long passage
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    start = begin
    try:
        for cells in reader:
            if not header:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    raise HycamError(f"{path}:{start}: two columns have the same name: {', '.join(header)}.")
            elif len(cells) == len(header):
                yield start, dict(zip(header, cells, strict=True))
            elif len(cells) > 1 or (cells and cells[0].strip()):  # else the line is blank
                yield (
                    start,
                    HycamError(
                        f"{path}:{start}: {len(header)} cells were expected ({', '.join(header)}), not {len(cells)}. "
                        "Put a cell with a comma or a line end in double quotes."
                    ),
                )
            start = begin + reader.line_num
    except csv.Error as error:
        raise HycamError(f"{path}:{start}: a row of CSV was expected ({error}).") from None


def _parquet(path: Path, content: Content) -> Iterator[Found]:
    # Parquet is read from its end, and seeking in a gzip stream would decompress it over and over: do it once.
    source = io.BytesIO(content.read()) if isinstance(content, gzip.GzipFile) else content
    try:
        file = pyarrow.parquet.ParquetFile(source)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise HycamError(f"{path}: two columns have the same name: {', '.join(names)}.")
        batches = (batch.to_pylist() for batch in file.iter_batches(_PARQUET_ROWS))
        yield from enumerate(chain.from_iterable(batches), 1)
    except HycamError:
        raise
    # ValueError and OverflowError: a value that Python cannot hold, such as text that is not UTF-8 or a year 300000.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise HycamError(f"{path} is cut off or damaged: it cannot be read as Parquet ({error}).") from error


def decoded(path: Path, raw: bytes, line: int = 1) -> str:
    """The text of ``raw``, which begins on ``line``; raises HycamError with the place of a byte that is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line, column = line + raw.count(b"\n", 0, error.start), error.start - raw.rfind(b"\n", 0, error.start)
        what = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        raise HycamError(
            f"{path}:{line}:{column}: {what}. If the file is in another encoding, convert it (for example iconv -f "
            "WINDOWS-1252 -t UTF-8) and try again."
        ) from None


def parsed(path: Path, text: str, expected: str, line: int | None = None) -> Any:
    """The JSON value in ``text``, which is the whole file or one ``line`` of it.

    Raises:
        HycamError: it is not JSON, or an object has a duplicate key; the message has the place and what was
            ``expected``.
    """
    place = f"{path}:{line}" if line else str(path)
    try:
        return json.loads(text, object_pairs_hook=_keys_once)
    except HycamError as error:
        raise HycamError(f"{place}: {error}.") from None
    except json.JSONDecodeError as error:
        at = min(error.pos, len(text.rstrip()))  # not past the end of the line, where white space was skipped
        line, column = (line or 1) + text.count("\n", 0, at), at - text.rfind("\n", 0, at)
        raise HycamError(f"{path}:{line}:{column}: {expected} was expected ({error.msg}).") from None
    except ValueError:  # of int(), which takes a few thousand digits at most
        raise HycamError(f"{place}: {TOO_LONG}.") from None
    except RecursionError:
        raise HycamError(f"{place}: the object is {TOO_DEEP}.") from None


def _keys_once(pairs: Pairs) -> dict[str, Any]:
    """An object for json's ``object_pairs_hook``; json itself silently keeps the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise HycamError(f'an object has the key "{key}" twice, and only the last would be read')
    return found
