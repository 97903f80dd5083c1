"""``hycam train`` killed at any moment ends, started again, with what an uninterrupted run ends with, to the bit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError
from hycam.methods import METHODS
from hycam.training.checkpoints import PROGRESS
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from train_children import after_step, cut_at, elsewhere, killed_at, moments_of, result, trained


@pytest.fixture(scope="module")
def durable(build: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A recipe in which everything that has to be restored matters.

    Rows of two tasks in unequal shares, drawn noise, a warm-up, losses that are logged between two checkpoints,
    validation and early stopping.
    """

    def durable(output: Path, method: str = "hycam", **training) -> Recipe:
        settings = {"max_steps": 6, "batch_size": 2, "gradient_accumulation": 2, "log_every": 3, "evaluate_every": 2,
                    "early_stopping_patience": 2, "warmup_ratio": 0.3, **training}  # fmt: skip
        made = build(output, method, **settings)
        if method == "lora":
            made.method.config["lora_dropout"] = 0.2
        mixture = MixtureRecipe("weights", weights={"counting": 3, "mirror": 1}, exhaustion="cycle")
        return replace(made, data=replace(made.data, mixture=mixture))

    return durable


@pytest.fixture(scope="module")
def whole(durable, tmp_path_factory: pytest.TempPathFactory, shared_cache: None) -> tuple[Recipe, list[str], dict]:
    """HyCAM's recipe, the moments of its training, and what it ends with."""
    recipe = durable(tmp_path_factory.mktemp("resume") / "run")
    return recipe, moments_of(recipe), result(recipe)


def finish(recipe: Recipe) -> str:
    """Runs the command to its end; what it said."""
    child = trained(recipe)
    assert child.wait() == 0, child.said()
    assert "Traceback" not in child.said()
    return child.said()


def killed_until_done(recipe: Recipe, moments: int, draw: random.Random) -> list[str]:
    """Runs the command again and again, each time killed at a drawn moment if it comes so far; the moments.

    A third of the moments at most, then more and more, since a run that never comes to a checkpoint never ends.
    """
    fatal: list[str] = []
    while True:
        child = trained(recipe, killed_at(draw.randrange(1, moments // 3 * (1 + len(fatal) // 3))))
        status = child.wait()
        assert "Traceback" not in child.said(), child.said()
        if status == 0:
            return fatal
        assert status == -signal.SIGKILL, child.said()
        fatal.append(re.search("killed before (.*)", child.said()).group(1))


def test_killed_at_drawn_moments_a_run_ends_with_the_same_bits(whole) -> None:
    recipe, moments, expected = whole
    killed = elsewhere(recipe, "killed")
    assert len(killed_until_done(killed, len(moments), random.Random(5))) >= 2
    assert result(killed) == expected


def test_killed_before_its_recipe_is_written_a_run_begins_in_the_same_folder(whole) -> None:
    recipe, moments, _ = whole
    written = moments.index("os.rename .recipe.yaml.unfinished") + 1
    killed = elsewhere(recipe, "early")
    for moment in (written, moments.index("os.rename ..holder.json.unfinished") + 1, written):
        assert trained(killed, killed_at(moment)).wait() == -signal.SIGKILL
        assert not (Path(killed.output) / "recipe.yaml").exists() and list(Path(killed.output).iterdir())


@pytest.mark.soak
def test_killed_at_every_moment_before_its_first_step_a_run_ends_with_the_same_bits(whole) -> None:
    recipe, moments, expected = whole
    killed = elsewhere(recipe, "start")
    for moment in range(1, moments.index("loss_of") + 1):
        child = trained(killed, killed_at(moment))
        assert child.wait() == -signal.SIGKILL, child.said()
    finish(killed)
    assert result(killed) == expected
    print(f"\nkilled at {moment} moments before the first step")


@pytest.mark.soak
@pytest.mark.parametrize("method", METHODS)
def test_every_method_killed_at_drawn_moments_ends_with_the_same_bits(durable, tmp_path: Path, method: str) -> None:
    recipe = durable(tmp_path / "run", method)
    moments = moments_of(recipe)
    kills = []
    for chain in range(2):
        killed = elsewhere(recipe, f"killed-{chain}")
        kills += killed_until_done(killed, len(moments), random.Random(f"{method}{chain}"))
        assert result(killed) == result(recipe)
    print(f"\n{method}: killed {len(kills)} times")


@pytest.mark.soak
def test_killed_at_every_moment_after_its_second_checkpoint_a_run_ends_with_the_same_bits(whole) -> None:
    """In a step, in validation, in a checkpoint, while old ones are deleted, while the adapter is written, after it."""
    recipe, moments, expected = whole
    begun = elsewhere(recipe, "begun")
    fifth_step = [at for at, moment in enumerate(moments, 1) if moment == "loss_of"][8]
    assert trained(begun, killed_at(fifth_step)).wait() == -signal.SIGKILL
    assert Run(Path(begun.output)).last_checkpoint().endswith("checkpoint-4")
    kills = []
    while True:
        again = elsewhere(recipe, "again")
        shutil.copytree(begun.output, again.output)
        child = trained(again, killed_at(len(kills) + 1))
        if child.wait() == 0:
            break
        kills.append(re.search("killed before (.*)", child.said()).group(1))
        finish(again)
        assert result(again) == expected, kills[-1]
        shutil.rmtree(again.output)
    wanted = ("loss_of", "step", "validation", "open optimizer.pt", "open adapter_model.safetensors",
              "os.rename .manifest.json.unfinished", "os.rename made",
              "os.rename .training.json.unfinished")  # fmt: skip
    assert set(wanted) <= set(kills)
    print(f"\nkilled at {len(kills)} moments, one after another")


@pytest.mark.soak
def test_cut_off_in_the_middle_of_a_write_a_run_ends_with_the_same_bits(whole) -> None:
    """The system ends the process with part of a file written, at a drawn byte of whichever file grows that long."""
    recipe, _, expected = whole
    draw = random.Random(7)
    longest = max(path.stat().st_size for path in Path(recipe.output).rglob("*") if path.is_file())
    times = 25
    for number in range(times):
        again = elsewhere(recipe, f"cut-{number}")
        step, size = draw.randrange(1, 7), draw.randrange(1_500, longest)

        def cut(again: Recipe = again, step: int = step, size: int = size) -> None:
            after_step(lambda: cut_at(size), step)

        child = trained(again, prepare=cut)
        assert child.wait() == -signal.SIGXFSZ, child.said()
        finish(again)
        assert result(again) == expected
        shutil.rmtree(again.output)
    print(f"\ncut off {times} times")


@pytest.mark.soak
def test_killed_at_drawn_times_a_run_ends_with_the_same_bits(whole) -> None:
    """Wherever it is, also in the middle of native code."""
    recipe, _, expected = whole
    draw, kills = random.Random(11), 0
    begun = time.monotonic()
    finish(elsewhere(recipe, "timed"))
    takes = time.monotonic() - begun
    for number in range(8):
        again = elsewhere(recipe, f"timed-{number}")
        for tries in count():
            child = trained(again)
            # Longer each time, since the machine may be slower than when it was measured.
            time.sleep(draw.uniform(0.0, takes * (1 + tries / 3)))
            if not child.is_alive():
                assert child.wait() == 0, child.said()
                break
            child.send(signal.SIGKILL)
            child.wait()
            kills += 1
        assert result(again) == expected
    print(f"\nkilled {kills} times by the clock")


def damaged(recipe: Recipe, name: str, steps: tuple[int, ...], file: str = "optimizer.pt") -> Recipe:
    """A run that was killed when all was trained and nothing saved, with a bit of some of its checkpoints flipped."""
    again = elsewhere(recipe, name)

    def kill() -> None:
        Run.finish = lambda *_: os._exit(9)  # type: ignore[method-assign]

    assert trained(again, prepare=kill).wait() == 9
    for step in steps:
        path = Run(Path(again.output)).checkpoints / f"checkpoint-{step}" / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    return again


def test_a_damaged_checkpoint_is_passed_over_with_a_message_and_nothing_is_lost(whole) -> None:
    recipe, _, expected = whole
    again = damaged(recipe, "damaged", (6,))
    said = finish(again)
    assert re.search(r"checkpoint-6 is damaged \(the content of optimizer.pt.*continues from .*checkpoint-4", said)
    assert result(again) == expected


@pytest.mark.soak
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "scheduler.pt", "rng_state_0.pth", "progress_0.json"])
def test_where_no_checkpoint_is_whole_training_begins_anew_and_says_so(whole, file: str) -> None:
    recipe, _, expected = whole
    steps = [int(path.name[11:]) for path in Run(Path(recipe.output)).checkpoints.glob("checkpoint-*")]
    again = damaged(recipe, f"none-{file}", tuple(steps), file)
    said = finish(again)
    assert said.count("training begins anew") == len(steps)
    assert result(again) == expected


@pytest.mark.soak
def test_a_best_checkpoint_that_is_damaged_when_it_is_wanted_is_trained_again(durable, tmp_path: Path) -> None:
    recipe = durable(tmp_path / "run", learning_rate=5.0, scheduler="constant", warmup_ratio=0.0, max_steps=20)
    finish(recipe)
    last = Path(Run(Path(recipe.output)).last_checkpoint())
    step = json.loads((last / PROGRESS).read_text())["best_step"]
    assert not last.name.endswith(f"-{step}"), "a rate this large makes things worse sooner or later"
    again = elsewhere(recipe, "again")
    best = Run(Path(again.output)).checkpoints / f"checkpoint-{step}" / "adapter_model.safetensors"

    def spoil() -> None:
        best.write_bytes(best.read_bytes()[:-1])

    child = trained(again, prepare=lambda: after_step(spoil, step + 1))
    assert child.wait() == 1, child.said()
    assert re.search(rf"hycam train: .*checkpoint-{step}, the best checkpoint.*is damaged: adapter_model", child.said())
    assert "the best so far, cannot be used" in finish(again)
    assert result(again) == result(recipe)


def test_an_adapter_that_was_damaged_since_is_not_used_but_made_again(whole) -> None:
    recipe, _, expected = whole
    again = elsewhere(recipe, "rotten")
    shutil.copytree(recipe.output, again.output)
    weights = Run(Path(again.output)).adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(HycamError, match=r"adapter is damaged: the content of adapter_model\.safetensors has changed"):
        Run(Path(again.output)).load()
    assert "adapter is damaged" in finish(again)
    assert result(again) == expected
