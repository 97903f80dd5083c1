"""The tasks by name. A dataset is one file here; a file of the user's own is a task too."""

from __future__ import annotations

from hycam.data.sources import Task
from hycam.data.tasks import (
    alpaca_eval,
    auto_cot,
    code_alpaca,
    dolly,
    gsm8k,
    icliniq,
    mbpp,
    medmcqa,
    squad,
    webgpt,
)

__all__ = ["EMBEDDED", "PAPER", "TASKS"]

_EMBEDDED = (gsm8k, medmcqa, mbpp, squad, alpaca_eval)
_PAPER = (auto_cot, icliniq, dolly, code_alpaca, webgpt)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (*_EMBEDDED, *_PAPER)}
EMBEDDED = tuple(module.TASK.name for module in _EMBEDDED)  # pip alone can fetch them
PAPER = tuple(module.TASK.name for module in _PAPER)
