from __future__ import annotations

import json
from pathlib import Path

import pytest

from hycam.console import Reporter
from hycam.data.recipe import DataRecipe
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.study.cells import Planner
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.study.run_cell import run_cell
from hycam.training.recipe import EvaluationRecipe, TrainingRecipe


def study(backbone: str, tasks: list[str], folder: Path, retention: RetentionRecipe) -> StudyRecipe:
    return StudyRecipe(
        output=str(folder / "study"),
        backbones={"tiny": backbone},
        methods={"Base": StudyMethod("base"), "LoRA": StudyMethod("lora", {"r": 4}, learning_rate=3e-2)},
        data=DataRecipe(tasks=tasks, max_length=300),
        training=TrainingRecipe(max_steps=3, device="cpu", precision="float32"),
        evaluation=EvaluationRecipe(generate_rows=0),
        retention=retention,
    )


@pytest.mark.real
def test_every_cell_is_measured_beside_the_backbone(backbone: str, tasks: list[str], tmp_path: Path) -> None:
    wanted = RetentionRecipe(tasks=["openbookqa"], rows=3, kl_texts=1)
    found = {}
    for cell in Planner(study(backbone, tasks, tmp_path, wanted)).cells():
        state, content = run_cell(cell, Reporter())
        assert state == "done", content
        found[cell.method] = json.loads(json.dumps(content["retention"], allow_nan=False))
    base, lora = found["Base"]["tasks"]["openbookqa"], found["LoRA"]["tasks"]["openbookqa"]
    assert base["difference"] == 0.0 != lora["difference"]
    assert lora["items"]["row"] == base["items"]["row"]
    assert lora["items"]["base_bits"] == pytest.approx(base["items"]["bits"], rel=1e-5)
    assert found["Base"]["kl"]["lambada"]["mean"] == 0.0 < found["LoRA"]["kl"]["lambada"]["mean"]


def test_nothing_is_measured_unless_the_study_asks(backbone: str, tasks: list[str], tmp_path: Path) -> None:
    base, _ = Planner(study(backbone, tasks, tmp_path, RetentionRecipe())).cells()
    assert run_cell(base, Reporter())[1]["retention"] is None
