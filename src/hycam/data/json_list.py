"""JSON with no key twice in an object, and a list of JSON objects read piece by piece."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hycam.errors import HycamError

TOO_DEEP = "nested too deeply"
TOO_LONG = "there is a number of too many digits"

_SPACE = re.compile(r"\s*")
_CUT = 16  # more characters than a number, a word or an escape of JSON may lack at the end of what was read


def repeated(pairs: Sequence[tuple[str, Any]]) -> str:
    """The key that an object has twice, of which the library json keeps the last and says nothing."""
    return Counter(key for key, _ in pairs).most_common(1)[0][0]


def key_twice(key: str) -> str:
    """What is wrong with an object that has ``key`` twice, as a part of a sentence."""
    return f'an object has the key "{key}" twice, of which only the last would be read'


def keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, as the library json is to make it; raises HycamError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HycamError(key_twice(repeated(pairs)))
    return found


class OpenList:
    """A JSON list that is read piece by piece: ``text`` is what of the file is at hand, ``at`` the place in it.

    ``twice`` is a key that an object in the last item has twice, or None.
    """

    def __init__(self, path: Path, pieces: Iterator[str]) -> None:
        self.path = path
        self.pieces = pieces
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.twice: str | None = None
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
            self.twice = None
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Whether it goes on in what was not read yet; else all the rest would be read to find the same error.
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if not (is_cut and self._read(len(self.text) - self.at)):
                    raise self._error(error.pos, f"a list of JSON objects was expected ({error.msg})") from None
            except ValueError:
                raise self._error(self.at, TOO_LONG) from None
            except RecursionError:
                raise self._error(self.at, f"the object is {TOO_DEEP}") from None
            else:
                if isinstance(value, int | float) and end > len(self.text) - _CUT and self._read(1):
                    continue  # the number may have further digits
                line = self._line_at(self.at)
                self.at = end
                return line, value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # not raised: where the item ends is still to be found
            self.twice = repeated(pairs)
        return found

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
