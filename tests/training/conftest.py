"""A recipe that trains in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hycam.data.recipe import DataRecipe
from hycam.methods import METHODS
from hycam.training.recipe import EvaluationRecipe, MethodRecipe, Recipe, TrainingRecipe

# These have no rank, or find it themselves.
OWN_RANK = [name for name, entry in METHODS.items() if entry.trains_backbone or entry.same_size_as]


@pytest.fixture(scope="session")
def build(backbone: str, tasks: list[str]) -> Callable[..., Recipe]:
    """Makes a recipe for a run folder."""

    def build(output: Path, method: str = "hycam", **training: Any) -> Recipe:
        settings = {"max_steps": 6, "learning_rate": 1e-2, "log_every": 2, "device": "cpu", **training}
        return Recipe(
            backbone=backbone,
            output=str(output),
            method=MethodRecipe(method, {} if method in OWN_RANK else {"r": 4}),
            data=DataRecipe(tasks=tasks, max_length=300),
            training=replace(TrainingRecipe(), **settings),
            evaluation=EvaluationRecipe(max_new_tokens=4, generate_rows=1),
        )

    return build


@pytest.fixture
def recipe(build: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    return partial(build, tmp_path / "run")


@pytest.fixture(scope="module")
def shared_cache(data_cache: Path) -> Iterator[None]:
    """The tests' data cache, for what a module trains once for all its tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hycam.data.cache.cache_folder", lambda: data_cache)
        yield
