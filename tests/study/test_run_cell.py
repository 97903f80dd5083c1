"""One cell, trained and evaluated for real."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hycam.study import run_cell as run_cell_module
from hycam.study.cells import Cell
from hycam.study.grid import Planner
from hycam.study.recipe import StudyMethod
from hycam.study.run_cell import run_cell
from hycam.training.loop import Loop
from hycam.training.run import Run
from study.tiny import BASE, LORA, TRAINING, Silent

PARTS = {"environment", "training", "curve", "evaluation", "retention", "routing", "seconds"}


@pytest.fixture
def cells(tiny_study) -> Callable[..., list[Cell]]:
    return lambda **changes: Planner(tiny_study(**changes)).cells()


def run(cell: Cell) -> tuple[str, dict[str, Any]]:
    return run_cell(cell, Silent())


def folder(cell: Cell) -> Run:
    return Run(Path(cell.recipe.output))


def test_a_finished_cell_has_what_its_run_folder_has(cells) -> None:
    (cell, _) = cells()
    state, content = run(cell)
    kept = folder(cell)
    assert state == "done"
    assert set(content) == PARTS
    assert {**kept.summary(), **{key: content["training"][key] for key in ("adapter_bytes", "peak_memory_bytes")}} == (
        content["training"]
    )
    assert content["training"]["adapter_bytes"] == sum(path.stat().st_size for path in kept.adapter.iterdir())
    assert content["training"]["data"] == cell.data.fingerprint
    assert content["curve"] == [json.loads(line) for line in kept.metrics.read_text().splitlines()]
    metrics = json.loads((kept.evaluation("test") / "metrics.json").read_text())
    assert {key: content["evaluation"][key] for key in metrics} == metrics
    predictions = [
        json.loads(line) for line in (kept.evaluation("test") / "predictions.jsonl").read_text().splitlines()
    ]
    for task, rows in content["evaluation"]["rows"].items():
        of_task = [entry for entry in predictions if entry["task"] == task]
        assert {name: [entry[name] for entry in of_task] for name in rows} == rows
        total = metrics["tasks"][task]
        assert sum(rows["nll"]) / sum(rows["tokens"]) == pytest.approx(total["nll"])
        assert [value is not None for value in rows["rougeL"]] == [True, False]  # one row was answered
    assert content["seconds"] >= content["training"]["seconds"] > 0
    assert json.loads(json.dumps(content)) == content


def test_the_backbone_as_it_is_is_evaluated_and_not_trained(cells) -> None:
    (cell,) = cells(methods=BASE)
    state, content = run(cell)
    assert (state, content["training"], content["curve"], content["retention"]) == ("done", None, [], None)
    assert set(content["evaluation"]["tasks"]) == {"counting", "mirror"}


def test_a_loss_that_is_no_number_is_a_result_with_its_step(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells(methods=LORA, training=replace(TRAINING, max_steps=6))
    loss_of = Loop.loss_of

    def poisoned(self, *args):
        if self.progress.step == 2:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad).fill_(float("nan"))
        return loss_of(self, *args)

    monkeypatch.setattr(Loop, "loss_of", poisoned)
    state, content = run(cell)
    assert state == "diverged"
    assert content["failure"]["step"] == 3
    assert "Training diverged: the loss of step 3" in content["failure"]["reason"]
    assert [line["step"] for line in content["curve"]] == [1, 2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory"), r"RuntimeError in test_run_cell\.py:\d+: CUDA out of memory"),
        (
            OSError(28, "No space left on device"),
            r"cannot be written \(No space left on device\), and training stopped at step 0",
        ),
    ],
)
def test_an_error_is_a_result_with_its_reason(cells, monkeypatch, error: Exception, said: str) -> None:
    (cell, _) = cells()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Loop, "loss_of", fail)
    state, content = run(cell)
    assert (state, content["failure"]["step"]) == ("failed", None)
    assert re.search(said, content["failure"]["reason"])
    assert set(content) == {"environment", "failure", "curve", "seconds"}


def test_data_that_changed_since_the_study_was_planned_are_refused(cells) -> None:
    for label, methods in (("LoRA", LORA), ("Base", BASE)):
        (cell,) = cells(methods=methods)
        state, content = run(replace(cell, data=replace(cell.data, fingerprint="of other rows"), identity=""))
        assert (label, state) == (label, "failed")
        assert "The data are not those that the study was planned with" in content["failure"]["reason"]
        assert not folder(cell).folder.exists()


def test_an_interrupted_cell_goes_on_from_its_checkpoint_to_the_same_result(cells, tmp_path, monkeypatch) -> None:
    training = replace(TRAINING, max_steps=6, save_every=2)
    (whole, _) = cells(training=training, runs=str(tmp_path / "whole"))
    (cell, _) = cells(training=training, runs=str(tmp_path / "interrupted"))
    _, once = run(whole)
    trained: list[int] = []

    def step(self):
        trained.append(self.progress.step)
        if trained == [1, 2, 3, 4, 5]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    with pytest.raises(KeyboardInterrupt):
        run(cell)
    with folder(cell).metrics.open("a") as metrics:
        metrics.write('{"step": 5, "lo')  # as a process that is killed leaves it
    before = [json.loads(line) for line in folder(cell).metrics.read_text().splitlines()[:4]]
    trained.clear()
    state, again = run(cell)
    assert (state, trained) == ("done", [5, 6])
    assert not folder(cell).checkpoints.exists(), "what is complete needs none"
    assert again["evaluation"] == once["evaluation"]
    first, second = (load_file(folder(one).adapter / "adapter_model.safetensors") for one in (whole, cell))
    assert all(torch.equal(first[key], value) for key, value in second.items())
    # The time of the steps that were kept is part of the training's, and of the cell's.
    assert again["curve"][:4] == before
    elapsed = [line["elapsed"] for line in again["curve"]]
    assert elapsed == sorted(elapsed)
    last = max(line["elapsed"] for line in again["curve"] if "loss" in line)
    assert again["training"]["seconds"] >= last - 0.001
    assert again["seconds"] >= again["training"]["seconds"]


def test_cells_that_share_a_training_train_once(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(Loop, "step_ended", lambda self: steps.append(self.progress.step))
    first, second = cells(methods={"HyCAM": StudyMethod("hycam", {"r": 4, "num_specialized": 3})},
                          vary={"evaluation.config": [{"routing": "soft"}, {"routing": "hard"}]},
                          training=replace(TRAINING, max_steps=6))  # fmt: skip
    assert first.recipe.output == second.recipe.output
    (_, soft), (_, hard) = run(first), run(second)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert soft["training"]["seconds"] == hard["training"]["seconds"]
    assert soft["evaluation"]["macro"]["nll"] != hard["evaluation"]["macro"]["nll"]
    assert hard["seconds"] >= hard["training"]["seconds"]  # what was trained before is part of it


def test_a_cell_waits_while_another_process_is_in_its_run_folder(cells) -> None:
    (cell, _) = cells()
    Path(cell.recipe.output).parent.mkdir(parents=True)
    lock = run_cell_module.FileLock(f"{cell.recipe.output}.lock")
    found: list[str] = []
    with lock:
        waiting = threading.Thread(target=lambda: found.append(run(cell)[0]))
        waiting.start()
        waiting.join(0.5)
        assert not found
        assert not Path(cell.recipe.output).exists()
    waiting.join()
    assert found == ["done"]
