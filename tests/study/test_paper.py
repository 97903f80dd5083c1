"""The published figures, and the study files that repeat them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.data.recipe import DataRecipe, MixtureRecipe, TaskRecipe
from hycam.study import paper
from hycam.study.cells import Cell
from hycam.study.plan import read_study
from hycam.study.tables import TABLES
from study.factory import TASKS, plan_of, study_of

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
STUDIES = sorted(path.name for path in RECIPES.glob("*.yaml") if path.name != "base.yaml")
ORIGINAL = Path(__file__).parents[3] / "shared" / "paper_results.json"
METHODS = ("Full Finetune", "LoRA", "MultiLoRA", "RieMoE-LoRA", "HyCAM")
BACKBONES = {
    "Llama 2 7B", "Llama 3 8B", "Llama 3.1 8B", "Mistral 7B", "Qwen 2.5 0.5B", "Qwen 2.5 1.5B", "Qwen 2.5 3B",
    "Qwen 2.5 7B", "Qwen 2.5 14B", "Llama 3.2 1B", "Llama 3.2 3B",
}  # fmt: skip


def cell(**changes: object) -> Cell:
    study = study_of(("HyCAM",), folds=(0,), backbones={"Llama 2 7B": "x"})
    (made,) = plan_of(study, lambda _: None).cells
    return replace(made, recipe=replace(made.recipe, data=replace(made.recipe.data, **changes)))


def test_figures_are_those_that_were_printed() -> None:
    assert paper.overall("HyCAM", "Llama 2 7B") == paper.Published(3.081, 0.173, 0.244)
    assert paper.overall("MultiLoRA", "Qwen 2.5 14B") == paper.Published(2.882, 0.152, 0.235)
    assert paper.overall("Full Finetune", "Llama 3.2 1B") == paper.Published(4.221, 0.164, 0.221)
    assert paper.per_task("LoRA", "Llama 2 7B", "dolly") == paper.Published(6.029, 0.070, 0.181)
    assert paper.ablation("HyCAM-FullSpec", "Llama 2 7B") == 3.102
    counts = paper.counts("auto_cot")
    assert counts is not None
    assert counts["total_tokens"] == 943_474


def test_every_method_has_figures_on_every_backbone_and_task() -> None:
    assert all(paper.overall(method, backbone) for method in METHODS for backbone in BACKBONES)
    assert all(paper.per_task(method, "Llama 2 7B", task) for method in METHODS for task in TASKS if task != "webgpt")
    tables = [paper.published()[name] for name in ("table2", "table3", "table4")]
    assert {name for table in tables for of_method in table.values() for name in of_method} == BACKBONES


def test_what_is_not_in_the_paper_or_not_comparable_is_none() -> None:
    assert paper.overall("HyCAM", "SmolLM2 135M") is None
    assert paper.overall("AdaLoRA", "Llama 2 7B") is None
    assert paper.per_task("HyCAM", "Llama 3 8B", "dolly") is None
    assert paper.per_task("HyCAM", "Llama 2 7B", "webgpt") is None
    assert paper.counts("webgpt") is None
    assert paper.ablation("HyCAM", "Llama 3 8B") is None


def test_the_shipped_file_has_every_figure_of_the_reference_data() -> None:
    if not ORIGINAL.exists():
        pytest.skip("the reference data are not here (../shared/paper_results.json)")
    original = json.loads(ORIGINAL.read_text())
    ours = paper.published()
    tasks = dict(zip(("Auto CoT", "iCliniq", "Dolly 2.0", "CodeAlpaca", "WebGPT"), TASKS, strict=True))
    for name in ("table2", "table3", "table4", "table5_llama2_7b"):
        for row in original[name]:
            method = {"Multi LoRA": "MultiLoRA"}.get(row["method"], row["method"])
            column = tasks.get(row["column"], row["column"])
            assert ours[name][method][column] == [row["ppl"], row["bleu4"], row["rougeL"]]
        assert sum(len(of_method) for of_method in ours[name].values()) == len(original[name])
    assert ours["table6_llama2_7b_ppl"] == original["table6_llama2_7b_ppl"]
    assert {tasks[row.pop("dataset")]: row for row in original["table1"]} == {
        task: {key: value for key, value in row.items() if key != "dataset"} for task, row in ours["table1"].items()
    }
    assert ours["claimed_average_relative_improvement"] == original["claimed_average_relative_improvement"]


def test_a_cell_is_comparable_with_the_papers_tasks_whole_and_together() -> None:
    assert paper.is_comparable(cell())
    for changes in (
        {"train_rows": 100},
        {"test_rows": 100},
        {"tasks": list(TASKS[:4])},
        {"tasks": [*TASKS[:4], TaskRecipe(name="webgpt", rows=100)]},
        {"tasks": [*TASKS, "gsm8k"]},
    ):
        assert not paper.is_comparable(cell(**changes)), changes
    assert not paper.is_comparable(replace(cell(), task="dolly"))
    assert not paper.is_comparable(replace(cell(), settings={"training.learning_rate": 1e-3}))
    assert paper.is_comparable(cell(tasks=list(reversed(TASKS))))
    assert paper.is_comparable(cell(mixture=MixtureRecipe("equal")))


def test_tasks_with_other_rows_than_the_papers_are_named() -> None:
    made = cell()
    assert paper.other_data(made) == ["icliniq", "webgpt"]
    whole = replace(made, data=replace(made.data, rows={**made.data.rows, "icliniq": round(0.7 * 7_321)}))
    assert paper.other_data(whole) == ["webgpt"]  # another form, however many rows
    few = replace(made, data=replace(made.data, rows=dict.fromkeys(TASKS, 100)))
    assert not paper.is_comparable(few)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_file_of_the_paper_makes_cells_and_asks_for_tables_that_there_are(name: str) -> None:
    study = read_study(RECIPES / name)
    assert set(study.tables) <= set(TABLES)
    assert study.data.tasks == list(TASKS)
    assert (study.data.prompt, study.data.max_length) == ("paper", 1200)
    if name == "table1.yaml":
        assert not study.methods
        return
    assert set(study.backbones) <= BACKBONES
    own = replace(study, learning_rates_from=None)
    assert plan_of(own, lambda _: None).cells
    is_swept = study.sweep.learning_rates or study.learning_rates_from or "training.learning_rate" in study.vary
    assert (study.training.learning_rate == 2e-5) == (not is_swept)
    assert study.folds == ([0] if name in ("learning-rates.yaml", "figure5.yaml") else [0, 1, 2, 3, 4])


@pytest.mark.parametrize("name", ["table2.yaml", "table3.yaml", "table4.yaml", "table5.yaml"])
def test_its_methods_and_backbones_are_called_as_the_paper_calls_them(name: str) -> None:
    study = read_study(RECIPES / name)
    assert tuple(study.methods) == METHODS
    assert all(paper.overall(method, backbone) for method in study.methods for backbone in study.backbones)
    assert all(paper.is_comparable(one) for one in plan_of(study, lambda _: None).cells)


def test_its_ablations_are_called_as_the_paper_calls_them() -> None:
    study = read_study(RECIPES / "table6.yaml")
    assert all(paper.ablation(variant, backbone) for variant in study.methods for backbone in study.backbones)


def test_one_training_of_two_study_files_is_one_run() -> None:
    cells = {name: plan_of(read_study(RECIPES / name), lambda _: None).cells for name in ("table2.yaml", "table5.yaml")}
    runs = {name: {one.recipe.output for one in found} for name, found in cells.items()}
    assert runs["table5.yaml"] < runs["table2.yaml"]
    assert isinstance(cells["table2.yaml"][0].recipe.data, DataRecipe)
