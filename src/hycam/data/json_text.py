"""JSON, whole or a list read in pieces: errors have line and column, and a duplicate key is an error."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from hycam.errors import HycamError

_TOO_DEEP = "nested too deeply"
_TOO_LONG = "there is a number of too many digits"
_SPACE = re.compile(r"\s*")
_CUT = 16  # a number, a word or an escape cut off at the end of a chunk lacks fewer characters than this


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
        raise HycamError(f"{place}: {_TOO_LONG}.") from None
    except RecursionError:
        raise HycamError(f"{place}: the object is {_TOO_DEEP}.") from None


def _keys_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object for json's ``object_pairs_hook``; json itself silently keeps the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise HycamError(f'an object has the key "{key}" twice, and only the last would be read')
    return found


class OpenList:
    """A JSON list that is read item by item, with no more in memory than the longest item needs.

    ``text`` is the part of the file that is in memory, and ``at`` how far it has been parsed.
    """

    def __init__(self, path: Path, file: TextIO, chunk: int) -> None:
        self.path, self.file, self.chunk = path, file, chunk
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.twice: HycamError | None = None  # the error of a duplicate key in the last item
        self.text, self.at = "", 0
        self.counted, self.line, self.column = 0, 1, 1  # a place in ``text``, and its line and column

    def items(self) -> Iterator[tuple[int, Any]]:
        """Each item with the line on which it begins; an error in place of one that has a duplicate key.

        Raises:
            HycamError: it is not a list of JSON values; the message has the place.
        """
        self._peek()
        self.at += 1  # the bracket
        is_open = self._peek() != "]"
        while is_open:
            yield self._item()
            mark = self._peek()
            if mark not in (",", "]"):
                raise self._error(self.at, 'a comma or the "]" that closes the list was expected')
            is_open = mark == ","
            if is_open:
                self.at += 1
                if self._peek() == "]":
                    raise self._error(self.at, "a list of JSON objects was expected (nothing follows the comma)")
        self.at += 1
        if self._peek():
            raise self._error(self.at, "nothing was expected after the list")

    def _item(self) -> tuple[int, Any]:
        while True:
            self.twice = None
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Read on only if the item may be cut off: else the whole rest would be read to find the same error.
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if not (is_cut and self._read(len(self.text) - self.at)):
                    raise self._error(error.pos, f"a list of JSON objects was expected ({error.msg})") from None
            except ValueError:  # of int(), which takes a few thousand digits at most
                raise self._error(self.at, _TOO_LONG) from None
            except RecursionError:
                raise self._error(self.at, f"the object is {_TOO_DEEP}") from None
            else:
                if isinstance(value, int | float) and end > len(self.text) - _CUT and self._read(1):
                    continue  # the number may have more digits
                line, _ = self._place(self.at)
                self.at = end
                return line, value if self.twice is None else HycamError(f"{self.path}:{line}: {self.twice}.")

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        try:
            return _keys_once(pairs)
        except HycamError as error:  # kept, since the item still has to be parsed to its end
            self.twice = error
            return {}

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None  # the pattern matches the empty string
            self.at = match.end()
            if self.at < len(self.text) or not self._read(1):
                return self.text[self.at : self.at + 1]

    def _read(self, least: int) -> bool:
        """Drops what was parsed and reads at least so many characters more; returns whether there were any."""
        more = self.file.read(max(least, self.chunk))
        if more:
            self._place(self.at)
            self.text = self.text[self.at :] + more
            self.at = self.counted = 0
        return bool(more)

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of a place in ``text``, counted from the last place so that the cost stays linear."""
        lines = self.text.count("\n", self.counted, at)
        self.line += lines
        self.column = at - self.text.rfind("\n", 0, at) if lines else self.column + at - self.counted
        self.counted = at
        return self.line, self.column

    def _error(self, at: int, what: str) -> HycamError:
        line, column = self._place(at)
        return HycamError(f"{self.path}:{line}:{column}: {what}.")
