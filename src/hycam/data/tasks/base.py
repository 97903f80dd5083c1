"""What a task is: a name, where its rows come from in order of preference, and the examples they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hycam.data.formats import SourceRow
from hycam.errors import HycamError


@dataclass(frozen=True)
class Example:
    """One instruction and its response.

    ``row`` says where it came from (``file.jsonl:17``). Examples with one ``group`` key stay on the same side of every
    split. ``input`` is the text that the instruction speaks of, or empty.
    """

    row: str
    group: str
    instruction: str
    input: str
    response: str

    @classmethod
    def of(
        cls, source: SourceRow, *, instruction: str, response: str, input: str = "", group: str | None = None
    ) -> Example:
        """The example out of ``source``. The group is by default the input where there is one, else the instruction."""
        if group is None:
            group = input if input.strip() else instruction
        return cls(row=source.identity, group=group, instruction=instruction, input=input, response=response)


Convert = Callable[[Iterable[SourceRow]], Iterator[Example]]


class Source(Protocol):
    """A place that has the rows of a task."""

    def describe(self) -> str:
        """Where that is, in a few words."""

    def path(self) -> Path | None:
        """The file, where it lies on this machine already; looks only, fetches nothing."""

    def fetch(self) -> Iterator[Example]:
        """The examples, fetched first where they are not here yet; the fetching is done before this returns.

        Raises:
            HycamError: the rows cannot be had from here; the message is a clause without a capital or a full stop.
        """


@dataclass(frozen=True)
class Task:
    """A dataset to train and to evaluate on.

    ``domain`` is what it is about, ``licence`` the terms of its text, ``sources`` where to look, best first, and
    ``remedy`` what to do when none of them has it.
    """

    name: str
    domain: str
    licence: str
    sources: tuple[Source, ...]
    remedy: str = ""

    def examples(self) -> Iterator[Example]:
        """The examples of the first source that has them, in its own order.

        Raises:
            HycamError: no source has them (each is named with its reason), or a row is malformed.
        """
        reasons = []
        for source in self.sources:
            try:
                return source.fetch()
            except HycamError as error:
                reasons.append(str(error).removesuffix("."))
        raise HycamError(
            f'The data of the task "{self.name}" cannot be had: {"; ".join(reasons)}. {self.remedy}'.strip()
        )

    def path(self) -> Path | None:
        """The file that ``examples`` would read, where it is on this machine already."""
        return next((found for source in self.sources if (found := source.path())), None)
