"""A JSON list that is read in pieces: errors have line and column, and a duplicate key is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from hycam.errors import HycamError

TOO_DEEP = "nested too deeply"
TOO_LONG = "there is a number of too many digits"
_SPACE = re.compile(r"\s*")
_CUT = 16  # a number, a word or an escape cut off at the end of a chunk lacks fewer characters than this


Pairs = list[tuple[str, Any]]


class OpenList:
    """A JSON list that is read item by item, with no more in memory than the longest item needs.

    ``text`` is the part of the file that is in memory, and ``at`` how far it has been parsed. ``made`` makes an object
    of its keys and values; its HycamError makes the item malformed.
    """

    def __init__(self, path: Path, file: TextIO, chunk: int, made: Callable[[Pairs], dict[str, Any]]) -> None:
        self.path, self.file, self.chunk, self.made = path, file, chunk, made
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
                raise self._error(self.at, TOO_LONG) from None
            except RecursionError:
                raise self._error(self.at, f"the object is {TOO_DEEP}") from None
            else:
                if isinstance(value, int | float) and end > len(self.text) - _CUT and self._read(1):
                    continue  # the number may have more digits
                line, _ = self._place(self.at)
                self.at = end
                return line, value if self.twice is None else HycamError(f"{self.path}:{line}: {self.twice}.")

    def _object(self, pairs: Pairs) -> dict[str, Any]:
        try:
            return self.made(pairs)
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
        """Drops what was parsed and reads at least ``least`` more characters; returns whether there were any."""
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
