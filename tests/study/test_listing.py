"""What ``--status`` and ``--dry-run`` show."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hycam.lock import alone
from hycam.study.executors.events import Progressed, Started
from hycam.study.listing import listing, show
from hycam.study.plan import Plan
from hycam.study.recipe import ExecutorRecipe, SweepRecipe
from hycam.study.results import Results, cells_folder
from hycam.study.running import Board
from hycam.study.sweep import RATE
from study.factory import plan_of, study_of, sweep_evaluation

NLL = {"dolly": 1.5}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three methods on two folds: done, failed and diverged on the first, an unusable file on the second."""
    study = study_of(("LoRA", "MultiLoRA", "HyCAM"), ("dolly",), [0, 1], output=str(tmp_path),
                     executor=ExecutorRecipe(workers=2))  # fmt: skip
    states = {"LoRA": NLL, "MultiLoRA": "failed", "HyCAM": "diverged"}
    made = plan_of(study, lambda cell: states[cell.method] if cell.fold == 0 else None)
    unusable = {tmp_path / "cells" / made.cells[3].file_name: "its checksum does not fit"}
    return replace(made, results=Results(made.results.done, made.results.failed, unusable))


def shown(plan: Plan, every_cell: bool, width: int = 80) -> str:
    out = StringIO()
    show(plan, Console(file=out, width=width), every_cell)
    return out.getvalue()


def test_every_cell_has_its_state_its_reason_and_its_cost(plan: Plan) -> None:
    found = listing(plan)
    assert found["states"] == {"done": 1, "running": 0, "failed": 1, "diverged": 1, "unusable": 1, "to go": 2}
    by_name = {(cell["method"], cell["fold"]): cell for cell in found["cells"]}
    assert by_name["LoRA", 0]["seconds"] == 100.0
    assert by_name["LoRA", 0]["estimated_seconds"] is None
    assert by_name["MultiLoRA", 0]["reason"] == "no disk"
    assert by_name["MultiLoRA", 0]["estimated_seconds"] == pytest.approx(100.0)  # it is tried again
    assert "step 7 is no finite number" in by_name["HyCAM", 0]["reason"]
    assert by_name["HyCAM", 0]["estimated_seconds"] is None
    assert by_name["LoRA", 1]["reason"] == "its checksum does not fit"
    assert by_name["HyCAM", 1]["planned_tokens"] == 10_000
    assert found["estimated_seconds"] == pytest.approx(300.0)  # of MultiLoRA's both, and HyCAM's second
    assert json.loads(json.dumps(found)) == found


def test_what_another_process_runs_is_shown_as_running(plan: Plan, tmp_path: Path) -> None:
    cell = plan.cells[4]
    board = Board(tmp_path)
    with alone(tmp_path, "runs the study in"):
        board.tell(Started(cell))
        board._written = -1e9
        board.tell(Progressed(cell, "training", 3, 9))
        found = listing(plan)
        row = next(row for row in found["cells"] if row["identity"] == cell.identity)
        assert (row["state"], row["doing"]) == ("running", "training 3/9")
        assert (found["states"]["running"], found["states"]["to go"]) == (1, 1)
        assert "training 3/9" in shown(plan, every_cell=False)
    assert listing(plan)["states"]["running"] == 0


def test_rows_of_80_columns_leave_out_what_all_cells_share(plan: Plan) -> None:
    lines = shown(plan, every_cell=True, width=80).splitlines()
    assert lines[0] == "All cells: SmolLM2 135M, seed 2333"
    assert any(line.startswith("LoRA, fold 0       done") for line in lines)
    assert any(line.startswith("HyCAM, fold 1      to go") and "about 0:01:40" in line for line in lines)
    # Two workers halve the 300 seconds that are left.
    assert "6 cells: 1 done, 1 failed, 1 diverged, 1 unusable, 2 to go; the rest takes about 0:02:30" in " ".join(lines)


def test_the_status_names_what_needs_a_look_and_no_more(plan: Plan) -> None:
    text = shown(plan, every_cell=False, width=200)
    lines = text.splitlines()
    assert "MultiLoRA, fold 0: failed: no disk" in lines
    assert any(line.startswith("HyCAM, fold 0: diverged: Training diverged: the loss of step 7") for line in lines)
    file = cells_folder(plan.study.output) / plan.cells[3].file_name
    assert f"LoRA, fold 1: unusable ({file}): its checksum does not fit" in lines
    assert "HyCAM, fold 1" not in text


def test_a_study_that_nothing_was_measured_of_says_how_to_measure() -> None:
    nothing = plan_of(study_of(("LoRA",), ("dolly",), [0, 1]), lambda _: None)
    assert "2 cells: 2 to go; how long is not known before one was measured (--cells 1 runs one)" in shown(
        nothing, every_cell=False, width=200
    )
    assert listing(nothing)["estimated_seconds"] is None


def test_the_status_of_a_sweep_has_the_best_rates_so_far() -> None:
    study = study_of(("LoRA",), ("dolly",), [0], sweep=SweepRecipe([1e-3, 1e-2]), evaluation=sweep_evaluation())
    plan = plan_of(study, lambda cell: {"dolly": 100 * cell.settings[RATE]})
    text = shown(plan, every_cell=False, width=200)
    assert "LoRA: learning rate 0.001 (LoRA; validation NLL 0.1000; tried 2, at the edge of what was tried)" in text
