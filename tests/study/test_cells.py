"""What makes a cell the same cell, and what cells are called."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hycam.data.recipe import DataRecipe, TaskRecipe
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.study.cells import Cell, Data, difference, identity_of, names_of
from hycam.study.results import read
from hycam.training.recipe import EvaluationRecipe, MethodRecipe, Recipe, TrainingRecipe
from study.factory import plan_of, study_of

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").rglob("cells/*.json"))
NO_RETENTION = RetentionRecipe()
SOME = Recipe(
    method=MethodRecipe("hycam", {"r": 16}),
    data=DataRecipe(tasks=["dolly"], fold=2),
    training=TrainingRecipe(learning_rate=1e-3, log_every=5),
    evaluation=EvaluationRecipe(generate_rows=3),
)


def cell(recipe: Recipe, retention: RetentionRecipe = NO_RETENTION, data: str = "data") -> Cell:
    return Cell("backbone", "method", 0, 1, None, {}, recipe, retention, Data(data, {}, {}))


def identity(*given: Any, **more: Any) -> str:
    return cell(*given, **more).identity


@pytest.mark.parametrize(
    "changed",
    [
        replace(SOME, backbone="other"),
        replace(SOME, method=MethodRecipe("hycam", {"r": 8})),
        replace(SOME, method=MethodRecipe("lora", {"r": 16})),
        replace(SOME, data=replace(SOME.data, fold=3)),
        replace(SOME, training=replace(SOME.training, seed=1)),
        replace(SOME, training=replace(SOME.training, extra={"adam_beta1": 0.8})),
        replace(SOME, training=replace(SOME.training, backend="recompute")),
        replace(SOME, training=replace(SOME.training, optimizer_states="8bit")),
        replace(SOME, training=replace(SOME.training, use_liger_kernel=True)),
        replace(SOME, training=replace(SOME.training, torch_compile=True)),
        replace(SOME, evaluation=replace(SOME.evaluation, part="validation")),
        replace(SOME, evaluation=replace(SOME.evaluation, config={"routing": "hard"})),
    ],
)
def test_every_setting_that_bears_on_the_result_is_part_of_the_identity(changed: Recipe) -> None:
    assert identity(changed) != identity(SOME)
    assert difference(cell(SOME).resolved, cell(changed).resolved) is not None


def test_the_data_and_what_is_measured_are_part_of_the_identity() -> None:
    assert identity(SOME, data="other") != identity(SOME)
    assert identity(SOME, RetentionRecipe(tasks=["piqa"])) != identity(SOME)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SOME, output="elsewhere"),
        replace(SOME, training=replace(SOME.training, log_every=7)),
        replace(SOME, training=replace(SOME.training, save_every=7)),
        replace(SOME, training=replace(SOME.training, report_to=["tensorboard"])),
    ],
)
def test_what_bears_on_no_result_does_not_change_the_identity(changed: Recipe) -> None:
    assert identity(changed) == identity(SOME)
    assert cell(changed).resolved == cell(SOME).resolved


def test_a_setting_that_an_older_version_did_not_have_counts_as_its_default() -> None:
    now = cell(SOME).resolved
    before = {**now, "evaluation": {key: value for key, value in now["evaluation"].items() if key != "max_new_tokens"}}
    assert identity_of("data", before) == identity_of("data", now)
    assert difference(before, now) is None
    assert difference({**now, "backbone": "old"}, now) == "backbone was 'old' and is 'smollm2-135m'"


def test_the_results_that_the_project_keeps_have_the_identity_that_a_recipe_of_now_gives_them() -> None:
    assert RESULTS
    for path in RESULTS:
        kept = read(path)
        settings, identity = kept.content["settings"], kept.identity
        now = {**settings, "training": {**asdict(TrainingRecipe()), **settings["training"]}}
        assert difference(settings, now) is None
        assert identity_of(kept.content["data"], settings) == identity_of(kept.content["data"], now) == identity


def test_a_task_that_is_a_file_has_the_identity_that_it_had_before_its_entry_could_ignore_columns() -> None:
    entry = TaskRecipe(path="a.jsonl", columns={"response": "a"})
    recipe = Recipe(data=DataRecipe(tasks=["gsm8k", entry]))
    assert identity(recipe, data="f") == "663c34104a449c0500096bc8d040b2d5a449f4e4b5b9103e776151b29707ec69"
    ignoring = replace(recipe, data=replace(recipe.data, tasks=["gsm8k", replace(entry, ignore=["rejected"])]))
    assert identity(ignoring, data="f") != identity(recipe, data="f")


def cells(**changes):
    return plan_of(study_of(("LoRA", "HyCAM"), **changes), lambda cell: None).cells


def test_what_all_cells_share_is_said_once() -> None:
    found = names_of(cells(folds=[0, 1]))
    assert found.common == "SmolLM2 135M, seed 2333"
    assert list(found.short.values()) == ["LoRA, fold 0", "HyCAM, fold 0", "LoRA, fold 1", "HyCAM, fold 1"]


def test_settings_and_single_tasks_stay_where_they_differ() -> None:
    made = cells(folds=[0], tasks=("dolly",), single_tasks=True, vary={"data.train_rows": [8, 16]})
    found = names_of(made)
    assert found.common == "SmolLM2 135M, fold 0, seed 2333"
    assert list(found.short.values())[:3] == [
        "LoRA, train_rows 8",
        "LoRA, train_rows 8, dolly alone",
        "HyCAM, train_rows 8",
    ]
    assert made[1].name == "SmolLM2 135M, LoRA, fold 0, seed 2333, train_rows 8, dolly alone"


def test_a_varied_dictionary_is_told_entry_by_entry() -> None:
    (one,) = cells(folds=[0], vary={"evaluation.config": [{"r": 64}]})[:1]
    assert one.parts["evaluation.config"] == "r 64"
