"""A study whose cells were trained for real, on a tiny backbone, for the figures that look into an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hycam.data.recipe import DataRecipe
from hycam.study.plan import Plan, plan
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.study.results import Results
from hycam.training.recipe import TrainingRecipe
from hycam.training.train import train
from study.factory import result_of
from study.tiny import Silent


@pytest.fixture(autouse=True)
def _few_resamples(few_resamples: None) -> None: ...


@pytest.fixture(scope="session")
def trained(backbone: str, tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Plan:
    """LoRA, and HyCAM with a variant before it; of each task eight rows are tested."""
    folder = tmp_path_factory.mktemp("trained")
    tasks = []
    for name in ("counting", "mirror"):
        rows = [{"instruction": f"{name} {n}", "input": "", "output": f"${n + 1} and {n}\n{name}"} for n in range(80)]
        tasks.append(str(folder / f"{name}.jsonl"))
        Path(tasks[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = {
        "LoRA": StudyMethod("lora", {"r": 4}),
        "Shared only": StudyMethod("hycam-shared-only"),
        "HyCAM": StudyMethod("hycam", {"r": 4}),
    }
    study = StudyRecipe(
        output=str(folder / "study"),
        backbones={"tiny": backbone},
        methods=methods,
        data=DataRecipe(tasks=list(tasks), max_length=300),
        training=TrainingRecipe(max_steps=3, learning_rate=1e-1, device="cpu"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hycam.data.cache.cache_folder", lambda: data_cache)
        made = plan(study)
        for cell in made.cells:
            train(cell.recipe, Silent())
    return Plan(study, made.cells, Results([result_of(cell, {"counting": 1.0, "mirror": 1.2}) for cell in made.cells]))
