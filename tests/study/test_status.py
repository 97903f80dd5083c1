"""What is left of a study, how long it will take, and what ``--status`` and ``--dry-run`` show of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hycam.lock import alone
from hycam.study.plan import Plan
from hycam.study.recipe import ExecutorRecipe, StudyMethod, SweepRecipe
from hycam.study.results import Results, cells_folder
from hycam.study.status import Doing, Estimate, listing, note, show, spelled
from hycam.study.sweep import RATE
from study.factory import plan_of, study_of, sweep_evaluation

NLL = {"dolly": 1.5}
METHODS = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
SECONDS = {"LoRA": 50.0, "HyCAM": 80.0}  # of training, on 10,000 tokens; a whole cell takes 100


def plan(**states) -> Plan:
    """Two folds of three methods; ``states`` are those of fold 0 by method, and fold 1 is to be run."""
    study = study_of(METHODS, ("dolly",), [0, 1])
    return plan_of(
        study,
        lambda cell: states.get(cell.method) if cell.fold == 0 else None,
        training=lambda cell: {"seconds": SECONDS[cell.method]} if cell.method in SECONDS else {},
    )


def estimate_of(found: Plan) -> Estimate:
    return Estimate(found.results.done)


def estimates(found: Plan) -> dict[str, float | None]:
    return {cell.method: estimate_of(found).seconds(cell) for cell in found.cells if cell.fold == 1}


def test_a_cell_takes_as_long_as_its_method_took_by_planned_tokens_and_the_rest_by_the_cell() -> None:
    found = plan(Base=NLL, LoRA=NLL, HyCAM=NLL)
    # Base is only evaluated; LoRA and HyCAM train 10,000 planned tokens as they did before.
    assert estimates(found) == {"Base": 100.0, "LoRA": pytest.approx(100.0), "HyCAM": pytest.approx(100.0)}
    (lora,) = [cell for cell in found.cells if cell.method == "LoRA" and cell.fold == 1]
    half = found.results.select(method="LoRA")[0].content["training"]
    half["tokens"] = 20_000  # measured on twice the tokens in the same time: half the time for ours
    assert estimate_of(found).seconds(lora) == pytest.approx(50.0 + 50.0 / 2)


def test_a_method_that_was_not_measured_takes_as_long_as_the_others_on_the_backbone() -> None:
    found = estimates(plan(LoRA=NLL))
    assert found["HyCAM"] == pytest.approx(found["LoRA"])


def test_a_backbone_that_was_evaluated_alone_says_nothing_of_training() -> None:
    assert estimates(plan(Base=NLL)) == {"Base": 100.0, "LoRA": None, "HyCAM": None}
    assert estimates(plan()) == {"Base": None, "LoRA": None, "HyCAM": None}


def test_what_running_cells_took_so_far_is_not_left() -> None:
    found = plan(LoRA=NLL)
    lora = next(cell for cell in found.to_go if cell.method == "LoRA")
    left = estimate_of(found).left
    assert left([lora], {}) == pytest.approx(100.0)
    assert left([lora], {lora.identity: 30.0}) == pytest.approx(70.0)
    assert left([lora], {lora.identity: 300.0}) == 0.0
    assert Estimate([]).left([lora], {}) is None
    assert Estimate([]).left([], {}) == 0.0


def test_failed_cells_are_to_go_and_diverged_ones_are_not() -> None:
    found = plan(LoRA="failed", HyCAM="diverged", Base=NLL)
    assert [(cell.method, cell.fold) for cell in found.to_go] == [
        ("LoRA", 0),
        ("Base", 1),
        ("LoRA", 1),
        ("HyCAM", 1),
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(3909, "1:05:09"), (59.6, "0:01:00"), (0, "0:00:00"), (None, "unknown")]
)
def test_durations_are_spelled_in_hours_minutes_and_seconds(seconds: float | None, words: str) -> None:
    assert spelled(seconds) == words


@pytest.fixture
def marred(tmp_path: Path) -> Plan:
    """Three methods on two folds: done, failed and diverged on the first, an unusable file on the second."""
    study = study_of(("LoRA", "MultiLoRA", "HyCAM"), ("dolly",), [0, 1], output=str(tmp_path),
                     executor=ExecutorRecipe(workers=2))  # fmt: skip
    states = {"LoRA": NLL, "MultiLoRA": "failed", "HyCAM": "diverged"}
    made = plan_of(study, lambda cell: states[cell.method] if cell.fold == 0 else None)
    unusable = {tmp_path / "cells" / made.cells[3].file_name: "it cannot be read"}
    return replace(made, results=Results(made.results.done, made.results.failed, unusable))


def shown(found: Plan, every_cell: bool, width: int = 80) -> str:
    out = StringIO()
    show(found, Console(file=out, width=width), every_cell)
    return out.getvalue()


def test_every_cell_has_its_state_its_reason_and_its_cost(marred: Plan) -> None:
    found = listing(marred)
    assert found["states"] == {"done": 1, "running": 0, "failed": 1, "diverged": 1, "unusable": 1, "to go": 2}
    by_name = {(cell["method"], cell["fold"]): cell for cell in found["cells"]}
    assert by_name["LoRA", 0]["seconds"] == 100.0
    assert by_name["LoRA", 0]["estimated_seconds"] is None
    assert by_name["MultiLoRA", 0]["reason"] == "no disk"
    assert by_name["MultiLoRA", 0]["estimated_seconds"] == pytest.approx(100.0)  # it is tried again
    assert "step 7 is no finite number" in by_name["HyCAM", 0]["reason"]
    assert by_name["HyCAM", 0]["estimated_seconds"] is None
    assert by_name["LoRA", 1]["reason"] == "it cannot be read"
    assert by_name["HyCAM", 1]["planned_tokens"] == 10_000
    assert found["estimated_seconds"] == pytest.approx(300.0)  # of MultiLoRA's both, and HyCAM's second
    assert json.loads(json.dumps(found)) == found


def test_what_another_process_runs_is_shown_as_running(marred: Plan, tmp_path: Path) -> None:
    cell = marred.cells[4]
    note(tmp_path, {cell.identity: Doing(time.time(), "training 3/9")})
    with alone(tmp_path, "runs the study in"):
        found = listing(marred)
        row = next(row for row in found["cells"] if row["identity"] == cell.identity)
        assert (row["state"], row["doing"]) == ("running", "training 3/9")
        assert (found["states"]["running"], found["states"]["to go"]) == (1, 1)
        assert "training 3/9" in shown(marred, every_cell=False)
    assert listing(marred)["states"]["running"] == 0


def test_rows_of_80_columns_leave_out_what_all_cells_share(marred: Plan) -> None:
    lines = shown(marred, every_cell=True, width=80).splitlines()
    assert lines[0] == "All cells: SmolLM2 135M, seed 2333"
    assert any(line.startswith("LoRA, fold 0       done") for line in lines)
    assert any(line.startswith("HyCAM, fold 1      to go") and "about 0:01:40" in line for line in lines)
    # Two workers halve the 300 seconds that are left.
    assert "6 cells: 1 done, 1 failed, 1 diverged, 1 unusable, 2 to go; the rest takes about 0:02:30" in " ".join(lines)


def test_the_status_names_what_needs_a_look_and_no_more(marred: Plan) -> None:
    text = shown(marred, every_cell=False, width=200)
    lines = text.splitlines()
    assert "MultiLoRA, fold 0: failed: no disk" in lines
    assert any(line.startswith("HyCAM, fold 0: diverged: Training diverged: the loss of step 7") for line in lines)
    file = cells_folder(marred.study.output) / marred.cells[3].file_name
    assert f"LoRA, fold 1: unusable ({file}): it cannot be read" in lines
    assert "HyCAM, fold 1" not in text


def test_a_study_that_nothing_was_measured_of_says_how_to_measure() -> None:
    nothing = plan_of(study_of(("LoRA",), ("dolly",), [0, 1]), lambda _: None)
    assert "2 cells: 2 to go; the time is unknown until one was measured (--cells 1 runs one)" in shown(
        nothing, every_cell=False, width=200
    )
    assert listing(nothing)["estimated_seconds"] is None


def test_the_status_of_a_sweep_has_the_best_rates_so_far() -> None:
    study = study_of(("LoRA",), ("dolly",), [0], sweep=SweepRecipe([1e-3, 1e-2]), evaluation=sweep_evaluation())
    sweep = plan_of(study, lambda cell: {"dolly": 100 * cell.settings[RATE]})
    text = shown(sweep, every_cell=False, width=200)
    assert "LoRA: learning rate 0.001 (LoRA; validation NLL 0.1000; tried 2, at the edge of what was tried)" in text
