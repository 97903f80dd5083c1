"""What a task is: a name, where its rows come from in order of preference, and the examples they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hycam.data.source_row import Bad, SourceRow
from hycam.errors import HycamError

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Example:
    """One instruction and its response.

    ``row`` says where it came from (``file.jsonl:17``). Examples with one ``group`` key stay on the same side of every
    split. ``input`` is the text that the instruction speaks of, ``system`` what stands before a conversation, or empty.
    ``history`` has the turns before the instruction. ``part`` is the row's own word for the part that it belongs to.
    ``messages`` is the whole conversation where the others cannot say it all, see
    :class:`hycam.data.tasks.conversations.Conversation`, and else empty.
    """

    row: str
    group: str
    instruction: str
    input: str
    response: str
    system: str = ""
    history: tuple[Turn, ...] = ()
    part: str = ""
    messages: str = ""

    @classmethod
    def of(
        cls,
        source: SourceRow,
        *,
        instruction: str,
        response: str,
        input: str = "",
        group: str | None = None,
        system: str = "",
        history: tuple[Turn, ...] = (),
        part: str = "",
        messages: str = "",
    ) -> Example:
        """The example out of ``source``.

        The group is by default the input where there is one, else the first thing that was asked.
        """
        if group is None:
            group = input if input.strip() else history[0][0] if history else instruction
        return cls(source.identity, group, instruction, input, response, system, history, part, messages)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from: no response, or nothing that it responds to."""
        return not (self.response.strip() and (self.instruction + self.input).strip())


Convert = Callable[[SourceRow], Example | None]
"""From a row to its example, or to None where the row is passed over by design. Raises HycamError."""


@dataclass(frozen=True)
class Fetched:
    """The rows of a source, at hand.

    ``key`` changes whenever their content does. ``read`` begins to read them; ``convert`` makes examples of them.
    ``expected`` are columns of which a file has to have each in at least one row.
    """

    key: str
    read: Callable[[Bad], Iterator[SourceRow]]
    convert: Convert
    expected: frozenset[str] = frozenset()

    def examples(self, bad: Bad) -> Iterator[Example]:
        """The examples in the source's own order; ``bad`` is given what is wrong with a malformed row.

        Raises:
            HycamError: the file cannot be read on, or a named column is in none of its rows.
        """
        missing, last = set(self.expected), None
        for last in self.read(bad):
            missing -= last.fields.keys()
            try:
                example = self.convert(last)
            except HycamError as error:
                bad(error)
            else:
                if example is not None:
                    yield example
        if missing and last is not None:
            known = ", ".join(map(str, last.fields))
            raise HycamError(f"{last.path} has no column {', '.join(sorted(missing))} in any row. Columns: {known}.")


class Source(Protocol):
    """A place that has the rows of a task."""

    def describe(self) -> str:
        """Where that is, in a few words."""

    def path(self) -> Path | None:
        """The file, where it lies on this machine already; looks only, fetches nothing."""

    def fetch(self) -> Fetched:
        """The rows, fetched first where they are not here yet.

        Raises:
            HycamError: the rows cannot be had from here; the message is a clause without a capital or a full stop.
        """


@dataclass(frozen=True)
class PaperCounts:
    """A line of Table 1 of the paper, as printed: the rows, and their tokens. ``remark`` is on a misprint in it."""

    samples: int
    tokens: int
    remark: str = ""


@dataclass(frozen=True)
class Task:
    """A dataset to train and to evaluate on.

    ``domain`` is what it is about, ``licence`` the terms of its text, ``sources`` where to look, best first, and
    ``remedy`` what to do when none of them has it. ``paper`` is the paper's count, where it is a task of the paper.
    """

    name: str
    domain: str
    licence: str
    sources: tuple[Source, ...]
    remedy: str = ""
    paper: PaperCounts | None = None

    def fetch(self) -> Fetched:
        """The rows of the first source that has them.

        Raises:
            HycamError: no source has them; each is named with its reason. Or a file that is here cannot be read.
        """
        reasons = []
        for source in self.sources:
            try:
                return source.fetch()
            except HycamError as error:
                if source.path() is not None:
                    raise  # another source may have other rows
                reasons.append(str(error).removesuffix("."))
        raise HycamError(
            f'The data of the task "{self.name}" cannot be had: {"; ".join(reasons)}. {self.remedy}'.strip()
        )

    def compare(self, rows: int) -> str | None:
        """How the number of rows differs from the paper's; None where it does not, or the paper has no such task.

        Args:
            rows: all that the source has, also those that nothing can be learnt from.
        """
        if self.paper is None or rows == self.paper.samples:
            return None
        remark = self.paper.remark or f"of which these are {rows / self.paper.samples:.2%}"
        return f"{self.name}: {rows:,} rows; Table 1 of the paper has {self.paper.samples:,}, {remark}."

    def path(self) -> Path | None:
        """The file that ``fetch`` would read, where it is on this machine already."""
        return next((found for source in self.sources if (found := source.path())), None)
