"""JSON whose errors have a line and a column, and in which no object has a key twice; whole, or a list in pieces."""

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
_CUT = 16  # more characters than a number, a word or an escape of JSON may lack at the end of what was read


def decoded(path: Path, raw: bytes, line: int = 1) -> str:
    """The text that begins on ``line`` of a file; raises HycamError with its place where it is not UTF-8."""
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
    """The value that is written in ``text``, which is the whole file, or one ``line`` of it.

    Raises:
        HycamError: it is not JSON, or an object has a key twice; the message has the place and what was ``expected``.
    """
    place = f"{path}:{line}" if line else str(path)
    try:
        return json.loads(text, object_pairs_hook=_keys_once)
    except HycamError as error:
        raise HycamError(f"{place}: {error}.") from None
    except json.JSONDecodeError as error:
        at = min(error.pos, len(text.rstrip()))  # not behind the line's end, where white space was skipped
        line, column = (line or 1) + text.count("\n", 0, at), at - text.rfind("\n", 0, at)
        raise HycamError(f"{path}:{line}:{column}: {expected} was expected ({error.msg}).") from None
    except ValueError:  # of int(), which takes no more than some thousands of digits
        raise HycamError(f"{place}: {_TOO_LONG}.") from None
    except RecursionError:
        raise HycamError(f"{place}: the object is {_TOO_DEEP}.") from None


def _keys_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, as the library json is to make it, which by itself keeps the last of two equal keys without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise HycamError(f'an object has the key "{key}" twice, of which only the last would be read')
    return found


class OpenList:
    """A JSON list of which no more is held at a time than its longest item needs.

    ``text`` is what of the file is at hand, and ``at`` the place in it that has been read.
    """

    def __init__(self, path: Path, file: TextIO, chunk: int) -> None:
        self.path, self.file, self.chunk = path, file, chunk
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.twice: HycamError | None = None  # of an object in the last item
        self.text, self.at = "", 0
        self.counted, self.line, self.column = 0, 1, 1  # a place in ``text``, and its line and column in the file

    def items(self) -> Iterator[tuple[int, Any]]:
        """Each item with the line on which it begins; an error in place of one that has a key twice.

        Raises:
            HycamError: it is no list of JSON values; the message has the place.
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
                # Whether it goes on in what was not read yet; else all the rest would be read to find the same error.
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if not (is_cut and self._read(len(self.text) - self.at)):
                    raise self._error(error.pos, f"a list of JSON objects was expected ({error.msg})") from None
            except ValueError:  # of int(), which takes no more than some thousands of digits
                raise self._error(self.at, _TOO_LONG) from None
            except RecursionError:
                raise self._error(self.at, f"the object is {_TOO_DEEP}") from None
            else:
                if isinstance(value, int | float) and end > len(self.text) - _CUT and self._read(1):
                    continue  # the number may have further digits
                line, _ = self._place(self.at)
                self.at = end
                return line, value if self.twice is None else HycamError(f"{self.path}:{line}: {self.twice}.")

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        try:
            return _keys_once(pairs)
        except HycamError as error:  # kept, since the end of the item is still to be found
            self.twice = error
            return {}

    def _peek(self) -> str:
        """The next character that is no white space, or nothing at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None  # the pattern matches the empty string
            self.at = match.end()
            if self.at < len(self.text) or not self._read(1):
                return self.text[self.at : self.at + 1]

    def _read(self, least: int) -> bool:
        """Lets go of what was read and appends so many characters, or what is left; whether there was anything."""
        more = self.file.read(max(least, self.chunk))
        if more:
            self._place(self.at)
            self.text = self.text[self.at :] + more
            self.at = self.counted = 0
        return bool(more)

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of a place in ``text``; counted from the last one, so that it stays linear."""
        lines = self.text.count("\n", self.counted, at)
        self.line += lines
        self.column = at - self.text.rfind("\n", 0, at) if lines else self.column + at - self.counted
        self.counted = at
        return self.line, self.column

    def _error(self, at: int, what: str) -> HycamError:
        line, column = self._place(at)
        return HycamError(f"{self.path}:{line}:{column}: {what}.")
