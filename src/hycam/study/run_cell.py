"""One cell: trained, evaluated, and what that gave as the content of its result file."""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

from hycam.errors import Diverged, HycamError
from hycam.evaluation.result import PREDICTIONS_FILE
from hycam.machine import describe, peak_memory_bytes
from hycam.study.cells import Cell
from hycam.training.evaluate import evaluate_loaded
from hycam.training.run import BASE, Run
from hycam.training.train import train


class Progress(Protocol):
    """What a :class:`hycam.console.Reporter` does."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None: ...


def run_cell(cell: Cell, progress: Progress) -> tuple[str, dict[str, Any]]:
    """Trains and evaluates a cell; continues from its run folder's checkpoint or adapter where there is one.

    Returns:
        the state (``done``, ``failed`` or ``diverged``) and the content of the result file, as
        :mod:`hycam.study.results` describes it. An error and a loss that is no number any more are results too, and
        do not end the study.
    """
    began = time.monotonic()
    try:
        content = _measured(cell, progress)
    except Diverged as error:
        return "diverged", _failure(cell, began, str(error), error.step)
    except HycamError as error:
        return "failed", _failure(cell, began, str(error), None)
    except Exception as error:  # whatever it is, the other cells go on
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        return "failed", _failure(cell, began, f"{type(error).__name__} in {where}: {error}", None)
    return "done", {"environment": describe(), **content, "seconds": time.monotonic() - began}


def _measured(cell: Cell, progress: Progress) -> dict[str, Any]:
    run = Run(Path(cell.recipe.output))
    training = None
    if cell.recipe.method.name == BASE:
        run.begin(cell.recipe)
    else:
        training = {**train(cell.recipe, progress), "adapter_bytes": _bytes(run)}
    model, tokenizer = run.load()
    metrics = evaluate_loaded(run, model, tokenizer, cell.recipe.evaluation, progress)
    part = cell.recipe.evaluation.part
    evaluation = {"part": part, **metrics, "rows": _rows(run.evaluation(part) / PREDICTIONS_FILE)}
    if training is not None:
        training["peak_memory_bytes"] = max(training["peak_memory_bytes"], peak_memory_bytes())
    return {
        "training": training,
        "curve": _curve(run),
        "evaluation": evaluation,
        "retention": None,
        "routing": None,
    }


def _failure(cell: Cell, began: float, reason: str, step: int | None) -> dict[str, Any]:
    """What is kept of a cell without a result; the curve up to there shows how it went."""
    return {
        "environment": describe(),
        "failure": {"reason": reason, "step": step},
        "curve": _curve(Run(Path(cell.recipe.output))),
        "seconds": time.monotonic() - began,
    }


def _bytes(run: Run) -> int:
    """The size of what was saved."""
    folder = run.adapter if run.adapter.exists() else run.model
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _curve(run: Run) -> list[dict[str, Any]]:
    if not run.metrics.exists():
        return []
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def _rows(predictions: Path) -> dict[str, dict[str, list[Any]]]:
    """Identity and figures of each row that was scored, by task; the texts stay in the run folder."""
    columns = ("row", "nll", "tokens", "rougeL")
    found: dict[str, dict[str, list[Any]]] = {}
    for line in predictions.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        of_task = found.setdefault(entry["task"], {name: [] for name in columns})
        for name in columns:
            of_task[name].append(entry[name])
    return found
