from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.console import Reporter
from hycam.data.recipe import DataRecipe
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.study.grid import Planner
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


@pytest.mark.real
@pytest.mark.parametrize("method", ["LoRA", pytest.param("Full", marks=pytest.mark.soak)])
def test_it_is_measured_at_every_validation_too_from_the_backbone_on(
    backbone: str, tasks: list[str], tmp_path: Path, method: str
) -> None:
    wanted = RetentionRecipe(tasks=["openbookqa"], rows=3, kl_texts=1, at_validations=True)
    own = study(backbone, tasks, tmp_path, wanted)
    own.methods["Full"] = StudyMethod("full", learning_rate=1e-2)
    own = replace(own, training=replace(own.training, evaluate_every=2))
    (cell,) = (cell for cell in Planner(own).cells() if cell.method == method)
    state, content = run_cell(cell, Reporter())
    assert state == "done", content
    validations = [line for line in content["curve"] if "eval_loss" in line]
    assert [line["step"] for line in validations] == [0, 2, 3]
    first, between, last = validations
    assert first["retention_openbookqa"] == 0.0 == first["kl_lambada"]
    assert between["retention_openbookqa"] != 0.0 < between["kl_lambada"] < last["kl_lambada"]
    kept = content["retention"]
    assert last["retention_openbookqa"] == pytest.approx(kept["tasks"]["openbookqa"]["difference"], rel=1e-4)
    assert last["kl_lambada"] == pytest.approx(kept["kl"]["lambada"]["mean"], rel=1e-4)


def test_only_what_is_measured_at_validations_is_another_training(
    backbone: str, tasks: list[str], tmp_path: Path
) -> None:
    def trained(retention: RetentionRecipe) -> str:
        return Planner(study(backbone, tasks, tmp_path, retention)).cells()[-1].trained

    later = RetentionRecipe(tasks=["openbookqa"])
    assert trained(later) == trained(RetentionRecipe())
    assert trained(replace(later, at_validations=True)) != trained(later)
