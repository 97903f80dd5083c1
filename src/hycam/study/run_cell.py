"""Trains and evaluates one cell, and collects the content of its result file."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

from hycam import backbones
from hycam.adapt import empty_backbone
from hycam.console import Reports, quiet_libraries
from hycam.data.prepare import Prepared, prepare
from hycam.errors import Diverged, HycamError
from hycam.evaluation.result import PREDICTIONS_FILE
from hycam.inspection.routing import routing_by_task
from hycam.machine import describe, peak_memory_bytes
from hycam.study.cells import Cell
from hycam.training.evaluate import evaluate_rows, measure_retention, retention_while_training
from hycam.training.preflight import stop_at_errors
from hycam.training.preflight.data import check_tables
from hycam.training.run import BASE, Run
from hycam.training.train import train

_ROUTED_ROWS = 20  # of each task: means over some thousand tokens


def settle(threads: int) -> None:
    """Sets a cell's process up: its CPU threads, and a quiet console.

    The process that runs the study has already reported on the data when it planned the cells.
    """
    torch.set_num_threads(threads)
    quiet_libraries(informative=False)
    transformers.logging.disable_progress_bar()
    logging.getLogger("hycam.data").setLevel(logging.ERROR)


def run_cell(cell: Cell, progress: Reports) -> tuple[str, dict[str, Any]]:
    """Trains and evaluates a cell, resuming from the checkpoint or adapter in its run folder.

    Returns:
        the state (``done``, ``failed`` or ``diverged``) and the content of the result file, see
        :mod:`hycam.study.cell_file`. Errors and divergence are results too, and do not end the study.
    """
    began = time.monotonic()
    run = Run(Path(cell.recipe.output))
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        # Another study may include the same training.
        with FileLock(f"{run.folder}.lock"):
            content = _measured(cell, run, _prepared(cell, progress), progress)
            # The adapter is saved by now; all checkpoints of a long study would fill the disk.
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    except Diverged as error:
        return "diverged", _failure(run, began, _of_cell(error), error.step)
    except HycamError as error:
        return "failed", _failure(run, began, str(error), None)
    except Exception as error:  # whatever it is, the other cells continue
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        return "failed", _failure(run, began, f"{type(error).__name__} in {where}: {error}", None)
    return "done", {"environment": describe(), **content}


def _of_cell(error: Diverged) -> str:
    """What diverged, with the advice for a study, where other settings make another cell."""
    rows = f" Rows of that step: {', '.join(error.rows)}." if error.rows else ""
    return (
        f"Training diverged: {error.what}.{rows} Set training.on_divergence to skip in the study, to skip such steps, "
        "or lower the learning rate; the cell is then trained from the start under another name."
    )


def _prepared(cell: Cell, progress: Reports) -> Prepared:
    """The cell's data, checked to be those that the study was planned with."""
    tokenizer = backbones.load_tokenizer(cell.recipe.backbone, cell.recipe.trust_remote_code)
    data = prepare(cell.recipe.data, tokenizer, progress.update)
    if data.fingerprint != cell.data.fingerprint:
        raise HycamError(
            "The data are not those that the study was planned with: a file has changed, or differs on this machine. "
            "Restore it, or run the study again with the new data."
        )
    trusted = cell.recipe.trust_remote_code
    backbone = empty_backbone(backbones.config(cell.recipe.backbone, trusted), trusted)
    stop_at_errors(check_tables(cell.recipe, data, tokenizer, backbone))
    return data


def _measured(cell: Cell, run: Run, data: Prepared, progress: Reports) -> dict[str, Any]:
    began = time.monotonic()
    training = None
    if cell.recipe.method.name == BASE:
        run.begin(cell.recipe)
    else:
        kept = cell.retention
        also = retention_while_training(cell.recipe, kept, progress) if kept.at_validations else None
        training = {**train(cell.recipe, progress, also), "adapter_bytes": _bytes(run)}
        # The cell's time includes what earlier, interrupted processes spent on training.
        began -= max(0.0, training["seconds"] - (time.monotonic() - began))
    model, tokenizer = run.load(cell.recipe.evaluation.config)
    part = cell.recipe.evaluation.part
    rows = getattr(data, part)
    metrics = evaluate_rows(run, model, tokenizer, rows, cell.recipe.evaluation, progress)
    evaluation = {"part": part, **metrics, "rows": _rows(run.evaluation(part) / PREDICTIONS_FILE)}
    if training is not None:
        training["peak_memory_bytes"] = max(training["peak_memory_bytes"], peak_memory_bytes())
    retention = None  # after reading the peak: the backbone may be held beside the model
    if cell.retention.is_measured:
        retention = measure_retention(run, model, tokenizer, cell.retention, progress)
    return {
        "training": training,
        "curve": _curve(run),
        "evaluation": evaluation,
        "retention": retention,
        "routing": routing_by_task(model, tokenizer, rows, _ROUTED_ROWS),
        "seconds": time.monotonic() - began,
    }


def _failure(run: Run, began: float, reason: str, step: int | None) -> dict[str, Any]:
    """The content for a cell without a result, with its curve so far."""
    return {
        "environment": describe(),
        "failure": {"reason": reason, "step": step},
        "curve": _curve(run),
        "seconds": time.monotonic() - began,
    }


def _bytes(run: Run) -> int:
    folder = run.adapter if run.adapter.exists() else run.model
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _curve(run: Run) -> list[dict[str, Any]]:
    if not run.metrics.exists():
        return []
    # Whole lines only: a killed process may have left half of one.
    lines = run.metrics.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _rows(predictions: Path) -> dict[str, dict[str, list[Any]]]:
    """Identity and scores of each row, by task; the texts stay in the run folder."""
    columns = ("row", "nll", "tokens", "rougeL")
    found: dict[str, dict[str, list[Any]]] = {}
    for line in predictions.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        of_task = found.setdefault(entry["task"], {name: [] for name in columns})
        for name in columns:
            of_task[name].append(entry[name])
    return found
