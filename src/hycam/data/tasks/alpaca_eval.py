"""AlpacaEval: open instructions, answered by GPT-4 Turbo. 805 rows."""

from __future__ import annotations

from hycam.data.sources import InWheel, Task
from hycam.downloads import EVAL_FRAMEWORK

TASK = Task(
    name="alpaca_eval",
    domain="open instructions",
    licence="CC BY-NC 4.0",
    sources=(InWheel(EVAL_FRAMEWORK, EVAL_FRAMEWORK.members[0]),),
)
