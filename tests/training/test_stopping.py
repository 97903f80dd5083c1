"""SIGTERM and Ctrl-C: a checkpoint, a line and a status; the second one leaves at once; nothing is lost."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hycam.errors import Interrupted
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.stopping import Stop
from train_children import elsewhere, moments_of, result, signalled_at, trained

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def watched(
    build: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory, shared_cache: None
) -> tuple[Recipe, list[str], dict]:
    """A recipe, the moments of its training and what it ends with; it keeps no checkpoints of its own."""
    whole = build(tmp_path_factory.mktemp("stopping") / "run", max_steps=4, evaluate_every=2, log_every=3)
    moments = moments_of(whole)
    return whole, moments, result(whole)


def stopped(whole: Recipe, name: str, signals: dict[int | str, signal.Signals]) -> tuple[Recipe, int, str]:
    """The same training, told to stop: its recipe, exit status and last words."""
    again = elsewhere(whole, name)
    child = trained(again, signalled_at(signals))
    status = child.wait()
    assert "Traceback" not in child.said(), child.said()
    return again, status, child.said()


def nth(moments: list[str], what: str, number: int) -> int:
    """When something happens the so-manieth time."""
    return [place for place, moment in enumerate(moments, 1) if moment == what][number - 1]


def continued(recipe: Recipe) -> dict:
    child = trained(recipe)
    assert child.wait() == 0, child.said()
    found = result(recipe)
    found.pop("state")  # the whole run kept no checkpoint
    return found


def test_a_signal_is_answered_with_a_checkpoint_after_the_step_and_nothing_is_lost(watched) -> None:
    whole, moments, expected = watched
    for number, at, step in (
        (signal.SIGTERM, nth(moments, "loss_of", 3), 2),  # in the middle of the second step
        (signal.SIGINT, nth(moments, "step", 3), 3),
    ):
        recipe, status, said = stopped(whole, f"in-a-step-{number}", {at: number})
        assert status == STATUS[number]
        assert re.search(rf"hycam train: stopped\. .*the same command continues from step {step}\.$", said, re.M)
        assert Run(Path(recipe.output)).last_checkpoint().endswith(f"checkpoint-{step}")
        assert continued(recipe) == expected


def test_validation_is_left_in_the_middle_and_made_up_for(watched) -> None:
    """The one after the second step, and the one after the last, which ends the run."""
    whole, moments, expected = watched
    batches = [place for place, moment in enumerate(moments, 1) if moment == "validation"]
    for name, at, step in (("first", batches[1], 2), ("last", batches[-2], 4)):
        recipe, status, said = stopped(whole, f"{name}-validation", {at: signal.SIGTERM})
        assert status == 143 and f"continues from step {step}." in said
        losses = [line["step"] for line in result(recipe)["metrics"] if "eval_loss" in line]
        assert step not in losses, "the validation was not run to its end"
        assert continued(recipe) == expected


def test_a_second_signal_leaves_at_once_and_damages_nothing(watched) -> None:
    whole, moments, expected = watched
    at = nth(moments, "loss_of", 3)
    recipe, status, said = stopped(whole, "twice", {at: signal.SIGINT, at + 1: signal.SIGTERM})
    assert status == 143 and said.rstrip().endswith(f"SIGTERM before {moments[at]}")
    assert Run(Path(recipe.output)).last_checkpoint() is None
    child = trained(recipe)
    assert child.wait() == 0
    assert result(recipe) == expected


# Moments of a checkpoint, from its first file to the name that completes it.
SAVING = [
    "fsync adapter_model.safetensors",
    *(pytest.param(moment, marks=pytest.mark.soak)
      for moment in ("open README.md", "open progress_0.json", "fsync optimizer.pt", "open .manifest.json.unfinished",
                     "os.rename .manifest.json.unfinished")),
]  # fmt: skip


@pytest.mark.parametrize("moment", SAVING)
def test_a_second_signal_in_the_middle_of_the_checkpoint_of_the_first_leaves_it_unbelieved(
    watched, moment: str
) -> None:
    whole, moments, expected = watched
    at = nth(moments, "step", 3)
    name = "saving-" + moment.replace(" ", "-")
    recipe, status, said = stopped(whole, name, {at: signal.SIGINT, moment: signal.SIGTERM})
    run = Run(Path(recipe.output))
    assert status == 143 and (run.checkpoints / "checkpoint-3").exists() and run.last_checkpoint() is None, said
    child = trained(recipe)
    assert child.wait() == 0 and "checkpoint-3 was not finished" in child.said()
    assert result(recipe) == expected


def test_a_signal_while_the_adapter_is_written_lets_it_be_finished(watched) -> None:
    whole, moments, expected = watched
    recipe, status, said = stopped(whole, "at-the-end", {nth(moments, "os.mkdir made", 1): signal.SIGINT})
    assert status == 130 and "The run is complete." in said
    assert result(recipe) == expected


def test_before_the_first_step_there_is_nothing_to_save_and_no_wait(watched) -> None:
    whole, _, expected = watched
    recipe, status, said = stopped(whole, "before", {2: signal.SIGTERM})
    assert status == 143 and "stopped" in said
    child = trained(recipe)
    assert child.wait() == 0
    assert result(recipe) == expected


LATER = [pytest.param(name, marks=pytest.mark.soak) for name in ("transformers", "peft", "hycam.training.train")]


@pytest.mark.parametrize("module", ["torch", *LATER])
def test_ctrl_c_while_libraries_are_imported_is_a_line_and_no_traceback(module: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("backbone: nothing\n")
    script = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
def hook(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv = ["hycam", "train", {str(tmp_path / "recipe.yaml")!r}]
import hycam_command
sys.exit(hycam_command.main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert "stopped" in done.stderr and "Traceback" not in done.stderr


def test_what_is_ignored_stays_ignored_and_what_was_there_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop.listening():
            signal.raise_signal(signal.SIGINT)
            with stop.held():
                signal.raise_signal(signal.SIGTERM)
                with pytest.raises(Interrupted, match="so far") as told:
                    stop.check("so far")
        assert told.value.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
