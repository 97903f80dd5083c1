"""What a study file may say."""

from __future__ import annotations

import pytest

from hycam.errors import HycamError
from hycam.study.recipe import ExecutorRecipe, StudyMethod, StudyRecipe, SweepRecipe
from hycam.training.recipe import TrainingRecipe
from study.factory import sweep_evaluation

SWEEP = {"sweep": SweepRecipe([1e-3]), "evaluation": sweep_evaluation()}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"folds": []}, "names no fold: folds is empty"),
        ({"backbones": {}}, "names no backbone"),
        ({"folds": [0, 1, 0]}, r"folds names one twice: \[0, 1, 0\]"),
        ({"seeds": [1, 1]}, "seeds names one twice"),
        (
            {"folds": [0, 1], "seed_per_fold": True},
            "seed_per_fold needs a seed for each fold: seeds has 1, folds has 2",
        ),
        ({"vary": {"data.train_rows": 3}}, r"vary.data.train_rows is 3: a list of values"),
        ({"vary": {"data.train_rows": []}}, "a list of values was expected"),
        ({**SWEEP, "vary": {"data.train_rows": [1]}}, "A sweep varies the learning rate alone"),
        ({**SWEEP, "learning_rates_from": "x.yaml"}, "exclude each other"),
        ({"single_tasks": True, "training": TrainingRecipe(max_steps=3)}, "needs training.epochs"),
        ({"methods": {"a": StudyMethod("lora", variant_of="b")}}, 'variant_of names "b", which is not a method'),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(fields: dict, said: str) -> None:
    with pytest.raises(HycamError, match=said):
        StudyRecipe(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"workers": 0}, "executor.workers is 0: a number above 0"),
        ({"threads": 0}, "executor.threads is 0"),
        ({"cpus": 0}, "executor.cpus is 0"),
        ({"gpus": -1}, "executor.gpus is -1"),
        ({"memory_gb": 0}, "executor.memory_gb is 0"),
        ({"gpus": 1.5}, "executor.gpus is 1.5: above 1 a whole number"),
    ],
)
def test_resources_that_there_cannot_be_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(HycamError, match=said):
        ExecutorRecipe(**fields)


def test_only_workers_of_this_machine_are_known_beforehand() -> None:
    assert ExecutorRecipe("local", workers=3).at_once == 3
    assert ExecutorRecipe("ray", workers=3, gpus=0.25).at_once == 1


def test_learning_rates_of_nothing_are_refused() -> None:
    with pytest.raises(HycamError, match="numbers above 0"):
        SweepRecipe([1e-3, 0.0])
