"""The sizes of a study's tasks, counted as the paper counts its own."""

from __future__ import annotations

from dataclasses import dataclass

from hycam.backbones import load_tokenizer
from hycam.data.chosen import chosen_tasks
from hycam.data.partition import rows_of
from hycam.data.stats import statistics
from hycam.data.tasks import PAPER
from hycam.errors import HycamError
from hycam.study.recipe import StudyRecipe

_PAPER_TOKENIZER = "llama-3"


@dataclass(frozen=True)
class TaskCount:
    task: str
    rows: int
    tokens: int
    mean_tokens: float
    domain: str


@dataclass(frozen=True)
class Counts:
    """The tasks counted with a tokenizer; none, with the reason, if the data or the tokenizer are missing."""

    tokenizer: str
    tasks: list[TaskCount]
    reason: str = ""


def count(study: StudyRecipe) -> Counts:
    """Counts every row, which takes some seconds."""
    tokenizer, tasks = next(iter(study.backbones.values())), []
    try:
        found = chosen_tasks(study.data)
        if any(name in PAPER for name in found):
            tokenizer = _PAPER_TOKENIZER
        loaded = load_tokenizer(tokenizer, study.trust_remote_code)
        for name, chosen in found.items():
            task = chosen.tasks[0]  # where each part has a file of its own, only their places differ
            rows = rows_of(chosen, study.data, keep_empty=True).dataset
            one = statistics(task, rows, loaded, skip_bad_rows=study.data.skip_bad_rows)
            tasks.append(TaskCount(name, one.samples, one.total_tokens, one.mean_tokens, one.domain))
    except HycamError as error:
        return Counts(tokenizer, [], f"The data cannot be counted: {error}")
    return Counts(tokenizer, tasks)
