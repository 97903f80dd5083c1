"""A made-up study with failures, whose run folders hold texts that would break a careless page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hycam.study.plan import Plan
from hycam.study.report.content import gather
from hycam.study.report.page import write
from hycam.study.results import Result
from hycam.training.run import Run
from study.factory import DIVERGED, FAILED, plan_of, steady, study_of

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> & more"
LEVELS = {"LoRA": 1.6, "MultiLoRA": 1.66, "HyCAM": 1.58}
TASKS = ("dolly", "webgpt")


def drawing(draw: Callable[..., Any], title: str = "A <drawing>") -> Any:
    """A figure of a report."""
    return SimpleNamespace(title=title, caption="What it shows.", draw=draw)


def line(plan: Plan, comparisons: object) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    return figure


def unfinished(cell: Any) -> Mapping[str, float] | str | None:
    """Fold 1 of MultiLoRA diverged, fold 2 of it failed, fold 2 of HyCAM was not run."""
    marred = {("MultiLoRA", 1): DIVERGED, ("MultiLoRA", 2): FAILED, ("HyCAM", 2): None}
    return marred.get((cell.method, cell.fold), steady(LEVELS)(cell))


def write_report(plan: Plan) -> Path:
    """The page of a study's report, with everything that belongs to it."""
    return write(gather(plan))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three methods on three folds of two tasks, not finished; no run folder is there."""
    study = study_of(tuple(LEVELS), TASKS, (0, 1, 2), title="A <b>study</b>", output=str(tmp_path / "study"))
    return plan_of(study, unfinished, rougeL=dict.fromkeys(TASKS, 0.25))


@pytest.fixture
def texts(plan: Plan) -> Callable[..., None]:
    """Writes the predictions of the finished cells into their run folders, changed as ``change`` says."""

    def write(change: Callable[[Result, dict[str, Any]], dict[str, Any]] = lambda one, entry: entry) -> None:
        cells = {cell.identity: cell for cell in plan.cells}
        for one in plan.results.done:
            folder = Run(Path(cells[one.identity].recipe.output)).evaluation("test")
            folder.mkdir(parents=True)
            entries = [
                change(one, {"task": task, "row": row, "prompt": f"Asked: {row}", "reference": "As it is",
                             "prediction": f"{one.method}: {HOSTILE}", "rougeL": rouge, "nll": nll, "tokens": tokens})
                for task, kept in one.content["evaluation"]["rows"].items()
                for row, nll, tokens, rouge in zip(*(kept[k] for k in ("row", "nll", "tokens", "rougeL")), strict=True)
            ]  # fmt: skip
            (folder / "predictions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    return write
