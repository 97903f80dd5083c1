"""``hycam train`` killed at any moment ends, started again, with what an uninterrupted run ends with, to the bit."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from train_children import cut_at, elsewhere, killed_at, moments_of, result, trained
from hycam.data.recipe import MixtureRecipe
from hycam.methods import METHODS
from hycam.training.recipe import Recipe
from hycam.training.run import Run


@pytest.fixture
def durable(recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A recipe in which everything that has to be restored matters.

    Rows of two tasks in unequal shares, drawn noise, a warm-up, losses that are logged between two checkpoints,
    validation and early stopping.
    """

    def build(method: str = "hycam", **training) -> Recipe:
        settings = {"max_steps": 6, "batch_size": 2, "gradient_accumulation": 2, "log_every": 3, "evaluate_every": 2,
                    "early_stopping_patience": 2, "warmup_ratio": 0.3, **training}  # fmt: skip
        made = recipe(method, **settings)
        if method == "lora":
            made.method.config["lora_dropout"] = 0.2
        mixture = MixtureRecipe("weights", weights={"counting": 3, "mirror": 1}, exhaustion="cycle")
        return replace(made, data=replace(made.data, mixture=mixture))

    return build


def finish(recipe: Recipe) -> dict:
    child = trained(recipe)
    assert child.wait() == 0, child.said()
    assert "Traceback" not in child.said()
    return result(recipe)


def killed_until_done(recipe: Recipe, moments: int, draw: random.Random) -> list[str]:
    """Runs the command again and again, each time killed at a drawn moment if it comes so far; the moments."""
    fatal = []
    while True:
        child = trained(recipe, killed_at(draw.randrange(1, moments)))
        status = child.wait()
        assert "Traceback" not in child.said(), child.said()
        if status == 0:
            return fatal
        assert status == -signal.SIGKILL, child.said()
        fatal.append(re.search("killed before (.*)", child.said()).group(1))


@pytest.mark.parametrize("method", ["hycam", "riemoe-lora", "full"])
def test_killed_at_drawn_moments_a_run_ends_with_the_same_bits(durable, method: str) -> None:
    whole = durable(method)
    moments = moments_of(whole)
    killed = elsewhere(whole, "killed")
    assert killed_until_done(killed, len(moments) // 2, random.Random(method))
    assert result(killed) == result(whole)
