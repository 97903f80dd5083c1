"""The tasks by name. A dataset is one file here; a file of the user's own is a task too."""

from __future__ import annotations

from pathlib import Path

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
from hycam.data.tasks.base import Example, Task
from hycam.data.tasks.columns import by_column_names
from hycam.data.tasks.sources import NamedFile
from hycam.errors import unknown

__all__ = ["EMBEDDED", "TASKS", "Example", "Task", "task"]

_EMBEDDED = (gsm8k, medmcqa, mbpp, squad, alpaca_eval)
_PAPER = (auto_cot, icliniq, dolly, code_alpaca, webgpt)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (*_EMBEDDED, *_PAPER)}
EMBEDDED = tuple(module.TASK.name for module in _EMBEDDED)  # to be had with pip alone

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def task(name_or_path: str) -> Task:
    """The task of that name, or the file at that path as a task that is called after it.

    Raises:
        HycamError: it is neither a known name nor, by its look, a path; names the nearest known one.
    """
    if name_or_path in TASKS:
        return TASKS[name_or_path]
    path = Path(name_or_path)
    plain = path.name.removesuffix(".gz")
    if not (path.is_file() or len(path.parts) > 1 or plain.endswith(_ENDINGS)):
        raise unknown("task", name_or_path, TASKS)
    stem = next((plain.removesuffix(ending) for ending in _ENDINGS if plain.endswith(ending)), plain)
    return Task(name=stem, domain="own file", licence="own file", sources=(NamedFile(path, by_column_names),))
