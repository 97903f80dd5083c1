"""The tasks by name. A dataset is one file here; a file of the user's own is a task too."""

from __future__ import annotations

from hycam.data.own import is_path, own_task
from hycam.data.recipe import TaskRecipe
from hycam.data.rows import Example
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
from hycam.errors import unknown

__all__ = ["EMBEDDED", "PAPER", "TASKS", "Example", "Task", "task"]

_EMBEDDED = (gsm8k, medmcqa, mbpp, squad, alpaca_eval)
_PAPER = (auto_cot, icliniq, dolly, code_alpaca, webgpt)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (*_EMBEDDED, *_PAPER)}
EMBEDDED = tuple(module.TASK.name for module in _EMBEDDED)  # to be had with pip alone
PAPER = tuple(module.TASK.name for module in _PAPER)


def task(name_or_path: str) -> Task:
    """The task of that name, or the file or folder at that path as a task that is called after it.

    Raises:
        HycamError: it is neither a known name nor, by its look, a path; names the nearest known one.
    """
    if name_or_path in TASKS:
        return TASKS[name_or_path]
    if not is_path(name_or_path):
        raise unknown("task", name_or_path, TASKS)
    return own_task(TaskRecipe(path=name_or_path))
