"""From a study to its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.data.recipe import DataRecipe, MixtureRecipe, SplitRecipe
from hycam.errors import HycamError
from hycam.study import grid as grid_module
from hycam.study.cells import Cell, Data
from hycam.study.grid import Planner
from hycam.study.recipe import StudyMethod, StudyRecipe, SweepRecipe
from hycam.training.recipe import EvaluationRecipe, Recipe, TrainingRecipe
from study.factory import sweep_evaluation


class Undated(Planner):
    """A planner without data: 10 rows and 1,000 tokens of each task, and one fingerprint for all."""

    def _prepared(self, recipe: Recipe) -> Data:
        names = [str(task) for task in recipe.data.tasks]
        return Data("0" * 64, dict.fromkeys(names, 10), dict.fromkeys(names, 1000))


def cells_of(study: StudyRecipe, rates: Mapping[tuple[str, str], float] | None = None) -> list[Cell]:
    return Undated(study, rates).cells()


def study_of(**changes) -> StudyRecipe:
    methods = {"LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
    return StudyRecipe(**{"methods": methods, "data": DataRecipe(tasks=["dolly", "webgpt"]), **changes})


def identities(cells: list[Cell]) -> set[str]:
    return {cell.identity for cell in cells}


def test_the_identity_of_a_cell_is_pinned() -> None:
    """Results of finished studies are found by it: a change here would lose them all."""
    split = SplitRecipe("disjoint", replicates=5, validation_rows=20, test_rows=70)
    data = DataRecipe(tasks=["dolly", "webgpt"], split=split, prompt="paper", max_length=400, group_by_length=True,
                      train_rows=46)  # fmt: skip
    study = StudyRecipe(
        methods={"HyCAM, r 16": StudyMethod("hycam", {"r": 16}), "LoRA": StudyMethod("lora")},
        data=data,
        folds=[3],
        vary={"training.warmup_ratio": [0.1]},
        training=TrainingRecipe(batch_size=4, precision="bfloat16", log_every=5, learning_rate=1e-3),
        evaluation=EvaluationRecipe(generate_rows=20),
    )
    found = cells_of(study)
    assert [cell.identity for cell in found] == [
        "5b3549d79e1977ac4e41a9829ae8549ec1536bf6e31e038ad6c8f75f4fb5165a",
        "929807a427bfde5201f2da391a46ac7e54784796a67ef5e280f3515da207d478",
    ]
    assert [cell.file_name for cell in found] == ["hycam-r-16-fold3-5b3549d79e19.json", "lora-fold3-929807a427bf.json"]
    assert [Path(cell.recipe.output).name for cell in found] == [
        "hycam-r-16-fold3-09c266931b89",
        "lora-fold3-4780b0bbd3d4",
    ]


def test_with_a_seed_per_fold_each_fold_is_trained_with_its_own_seed_alone() -> None:
    found = cells_of(study_of(folds=[0, 1, 2], seeds=[7, 5, 6], seed_per_fold=True))
    assert {(cell.fold, cell.seed) for cell in found} == {(0, 7), (1, 5), (2, 6)}
    assert {cell.recipe.training.seed for cell in found if cell.fold == 1} == {5}


def test_the_grid_is_every_combination_with_all_methods_of_a_fold_before_the_next() -> None:
    study = study_of(backbones={"a": "one", "b": "two"}, folds=[0, 1], seeds=[1, 2], vary={"data.train_rows": [4, 8]})
    found = cells_of(study)
    assert len(found) == len(identities(found)) == 2 * 2 * 2 * 2 * 2
    first = [(cell.seed, cell.fold, cell.settings["data.train_rows"], cell.backbone, cell.method) for cell in found]
    assert first[:5] == [
        (1, 0, 4, "a", "LoRA"),
        (1, 0, 4, "a", "HyCAM"),
        (1, 0, 4, "b", "LoRA"),
        (1, 0, 4, "b", "HyCAM"),
        (1, 0, 8, "a", "LoRA"),
    ]
    for cell in found:
        recipe = cell.recipe
        assert (recipe.data.fold, recipe.training.seed) == (cell.fold, cell.seed)
        assert recipe.data.train_rows == cell.settings["data.train_rows"]
        assert recipe.backbone == study.backbones[cell.backbone]


def test_names_are_no_part_of_a_cells_identity() -> None:
    methods = {"other name": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
    renamed = study_of(title="Other", methods=methods, backbones={"other": "smollm2-135m"})
    assert [cell.identity for cell in cells_of(renamed)] == [cell.identity for cell in cells_of(study_of())]


def test_cells_that_differ_in_evaluation_alone_share_their_run_folder() -> None:
    found = cells_of(study_of(vary={"evaluation.max_new_tokens": [8, 16], "data.train_rows": [4, 8]}))
    folders = {cell.recipe.output for cell in found}
    assert (len(found), len(folders)) == (8, 4)
    for cell in found:
        sharing = [other for other in found if other.recipe.output == cell.recipe.output]
        assert len({other.settings["data.train_rows"] for other in sharing}) == 1


@pytest.mark.parametrize("elsewhere", [None, "scratch"])
def test_run_folders_lie_in_the_studys_own_folder_or_where_it_says(elsewhere: str | None) -> None:
    (cell, _) = cells_of(study_of(output="results/one", runs=elsewhere))
    assert str(Path(cell.recipe.output).parent) == (elsewhere or "results/one/runs")


def test_the_learning_rate_is_that_of_the_setting_the_method_the_sweep_the_study_or_the_method_itself() -> None:
    methods = {"own": StudyMethod("lora", learning_rate=1e-2), "other": StudyMethod("hycam")}

    def rates(swept: Mapping[tuple[str, str], float] | None = None, **changes) -> list[float | None]:
        return [cell.recipe.training.learning_rate for cell in cells_of(study_of(methods=methods, **changes), swept)]

    of_study = TrainingRecipe(learning_rate=3e-3)
    assert rates(training=of_study) == [1e-2, 3e-3]
    assert rates(training=of_study, vary={"training.learning_rate": ["5e-4"]}) == [5e-4, 5e-4]
    swept = {("SmolLM2 135M", "other"): 7e-3}
    assert rates(swept, training=of_study, learning_rates_from="sweep.yaml") == [1e-2, 7e-3]
    own = rates()[1]
    assert own == grid_module.method("hycam").learning_rate
    with pytest.raises(HycamError, match=r'sweep.yaml has no learning rate for other on .*Did you mean "othr"'):
        rates({("SmolLM2 135M", "othr"): 1e-3}, learning_rates_from="sweep.yaml")


def test_a_sweep_has_a_cell_for_every_rate_of_every_method_and_one_of_the_backbone_as_it_is() -> None:
    methods = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
    study = study_of(methods=methods, sweep=SweepRecipe([1e-4, 1e-3]), evaluation=sweep_evaluation())
    found = [(cell.method, cell.recipe.training.learning_rate, dict(cell.settings)) for cell in cells_of(study)]
    assert found == [
        ("Base", None, {}),
        *((name, rate, {"training.learning_rate": rate}) for name in ("LoRA", "HyCAM") for rate in (1e-4, 1e-3)),
    ]


def test_the_backbone_as_it_is_runs_once_however_the_training_varies() -> None:
    methods = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora")}
    vary = {"training.learning_rate": [1e-4, 1e-3], "method.config.r": [4, 8], "evaluation.batch_size": [1, 2]}
    found = [cell for cell in cells_of(study_of(methods=methods, vary=vary)) if cell.method == "Base"]
    assert [cell.settings for cell in found] == [{"evaluation.batch_size": 1}, {"evaluation.batch_size": 2}]
    typed = cells_of(study_of(methods=methods, vary={"training.precision": ["float32", "bfloat16"]}))
    assert [cell.recipe.training.precision for cell in typed if cell.method == "Base"] == ["float32", "bfloat16"]
    (alone, _) = cells_of(study_of(methods=methods))
    assert alone.identity == cells_of(study_of(methods=methods, vary={"training.learning_rate": [1e-3]}))[0].identity


def test_a_single_task_is_trained_alone_on_as_many_of_its_rows_and_evaluated_on_all() -> None:
    study = study_of(single_tasks=True, training=TrainingRecipe(epochs=2))
    together, *alone = [cell for cell in cells_of(study) if cell.method == "LoRA"]
    assert [cell.task for cell in alone] == ["dolly", "webgpt"]
    for cell in alone:
        mixture = cell.recipe.data.mixture
        assert mixture.weights == {name: float(name == cell.task) for name in ("dolly", "webgpt")}
        assert mixture.exhaustion == "stop"
        assert replace(cell.recipe.data, mixture=MixtureRecipe()) == together.recipe.data
    assert [cell.planned_tokens for cell in (together, *alone)] == [4000, 2000, 2000]


def test_single_tasks_are_those_of_the_cell_where_the_tasks_are_varied() -> None:
    found = cells_of(study_of(single_tasks=True, vary={"data.tasks": [["dolly"], ["webgpt", "icliniq"]]}))
    assert [cell.task for cell in found if cell.method == "LoRA"] == [None, "dolly", None, "webgpt", "icliniq"]


def test_planned_tokens_follow_the_steps_where_those_are_given() -> None:
    (cell, _) = cells_of(study_of(training=TrainingRecipe(max_steps=3, batch_size=4, gradient_accumulation=5)))
    assert cell.planned_tokens == 3 * 4 * 5 * 100  # a row has 100 tokens
    (base,) = cells_of(study_of(methods={"Base": StudyMethod("base")}))
    assert base.planned_tokens == 0


def test_two_labels_of_one_training_are_refused_and_a_repeated_value_counts_once() -> None:
    with pytest.raises(HycamError, match=r"Two cells are one and the same: .*LoRA.*; and .*Again"):
        cells_of(study_of(methods={"LoRA": StudyMethod("lora"), "Again": StudyMethod("lora")}))
    assert len(cells_of(study_of(vary={"data.train_rows": [4, 4]}))) == 2


def test_a_mistake_in_what_evaluation_changes_is_said_before_anything_runs() -> None:
    with pytest.raises(HycamError, match=r'hycam has no setting "routin".*"routing"'):
        cells_of(study_of(methods={"HyCAM": StudyMethod("hycam")}, evaluation=EvaluationRecipe(config={"routin": 1})))


def test_data_are_prepared_once_for_all_cells_that_share_them(tiny_study, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, tokenizers = [], []
    prepare, load = grid_module.prepare, grid_module.load_tokenizer
    monkeypatch.setattr(grid_module, "prepare", lambda recipe, *rest: prepared.append(recipe) or prepare(recipe, *rest))
    monkeypatch.setattr(grid_module, "load_tokenizer", lambda *of: tokenizers.append(of) or load(*of))
    planner = Planner(tiny_study(folds=[0, 1], vary={"data.group_by_length": [False, True]}))
    found = planner.cells()
    assert [recipe.fold for recipe in prepared] == [0, 1]
    assert len(tokenizers) == 1
    assert planner.cells() == found
    assert len(prepared) == 2
    assert {cell.data.fingerprint for cell in found if cell.fold == 0}.isdisjoint(
        cell.data.fingerprint for cell in found if cell.fold == 1
    )


def test_a_fold_that_there_is_not_is_refused(tiny_study) -> None:
    with pytest.raises(HycamError, match="counting: There is no fold 7: the folds are 0 to 4"):
        Planner(tiny_study(folds=[0, 7])).cells()
    split = SplitRecipe("disjoint", replicates=2, validation_rows=2, test_rows=2)
    data = replace(tiny_study().data, split=split)
    assert len(Planner(tiny_study(folds=[0, 1], data=data)).cells()) == 4
    with pytest.raises(HycamError, match="counting: There is no replicate 2: they are 0 to 1"):
        Planner(tiny_study(folds=[2], data=data)).cells()


def test_the_longest_label_makes_a_file_name_that_a_file_system_takes(tiny_study) -> None:
    labels = {"x" * 400: StudyMethod("lora"), "x" * 399: StudyMethod("lora", {"r": 3})}
    cells = Planner(tiny_study(methods=labels)).cells()
    assert all(len(cell.file_name) < 200 for cell in cells)
    assert len({cell.file_name for cell in cells}) == len({cell.recipe.output for cell in cells}) == 2
