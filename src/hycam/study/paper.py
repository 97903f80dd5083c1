"""The paper's published figures (Tables 1 to 6), by this project's names of tasks and methods, and which of our results
they can be compared with.

``paper_results.json`` has the figures as printed; only names differ (``auto_cot`` for "Auto CoT", ``MultiLoRA`` for
"Multi LoRA").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hycam.data.tasks import PAPER, TASKS
from hycam.study.cells import Cell

# Tables 5 and 6 only have this backbone.
PER_TASK_BACKBONE = "Llama 2 7B"

# The paper's form of WebGPT (736 tokens per row) is not the public one (204).
_OTHER_FORM = ("webgpt",)
_SHARE_TRAINED = 0.7  # of a task's rows in each fold
_MOST_ROWS_OFF = 0.05  # the paper's misprint and skipped empty rows make up to 1 %


@dataclass(frozen=True)
class Published:
    """A method's perplexity, BLEU-4 and ROUGE-L (the latter two between 0 and 1)."""

    ppl: float
    bleu4: float
    rougeL: float


@cache
def published() -> dict[str, Any]:
    """The whole file."""
    return json.loads((files("hycam.study") / "paper_results.json").read_text(encoding="utf-8"))


def counts(task: str) -> dict[str, Any] | None:
    """``samples``, ``total_tokens`` and ``mean_tokens`` of a task (Table 1); None if none or the data differ."""
    return None if task in _OTHER_FORM else published()["table1"].get(task)


def overall(method: str, backbone: str) -> Published | None:
    """A method on a backbone over all five tasks (Tables 2, 3 and 4); None if the paper has no such figures."""
    for table in ("table2", "table3", "table4"):
        found = published()[table].get(method, {}).get(backbone)
        if found is not None:
            return Published(*found)
    return None


def per_task(method: str, backbone: str, task: str) -> Published | None:
    """A method on one task (Table 5); None if the paper has no such figures or other data than ours."""
    if backbone != PER_TASK_BACKBONE or task in _OTHER_FORM:
        return None
    found = published()["table5_llama2_7b"].get(method, {}).get(task)
    return None if found is None else Published(*found)


def ablation(variant: str, backbone: str) -> float | None:
    """The perplexity of a variant of HyCAM (Table 6); None if the paper has none."""
    return published()["table6_llama2_7b_ppl"].get(variant) if backbone == PER_TASK_BACKBONE else None


def is_comparable(cell: Cell) -> bool:
    """Whether a cell is part of the paper's comparison: its five tasks together and whole, on the test part of a fold.

    Some of the tasks, but not all, may have other data than the paper's: see :func:`other_data`.
    """
    data = cell.recipe.data
    is_whole = data.split.by == "folds" and data.train_rows is None and data.test_rows is None
    names = {entry for entry in data.tasks if isinstance(entry, str)}
    has_tasks = len(data.tasks) == len(PAPER) and names == set(PAPER)
    is_alike = cell.task is None and not cell.settings and cell.recipe.evaluation.part == "test"
    return has_tasks and is_alike and is_whole and len(other_data(cell)) < len(PAPER)


def other_data(cell: Cell) -> list[str]:
    """The paper's tasks whose data here differ from the paper's: in form, or in the number of rows."""
    return [name for name in PAPER if name in _OTHER_FORM or not _has_all_rows(cell, name)]


def _has_all_rows(cell: Cell, task: str) -> bool:
    paper = TASKS[task].paper
    return paper is not None and abs(cell.data.rows[task] / (_SHARE_TRAINED * paper.samples) - 1) <= _MOST_ROWS_OFF
