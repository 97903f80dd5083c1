"""What training computes does not move: twenty steps of each method, in settings that must agree.

``trajectories.json`` holds the loss and the gradient norm of each step and the SHA-256 of the trained adapter. With the
processor and the libraries that wrote it, all of it has to come out again to the bit. Elsewhere the rounding differs:
losses and norms are compared within 0.1 % there, and the adapters not at all. A change that is meant to move a
trajectory writes the file anew and says why::

    HYCAM_PIN=1 python -m pytest tests/invariant -n 0
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from forked import processes
from hycam.console import Silence
from hycam.data.recipe import DataRecipe
from hycam.errors import Interrupted
from hycam.training.recipe import EvaluationRecipe, MethodRecipe, Recipe, TrainingRecipe
from hycam.training.stopping import Stop
from hycam.training.train import train

PINS = Path(__file__).with_name("trajectories.json")
STEPS = 20
ROWS = 8  # in a step

METHODS = {
    "hycam": MethodRecipe("hycam", {"r": 4}),
    # Eq. 10 is a product of means over a micro-batch, and noise is drawn for each of them. Without the two, a step does
    # not depend on how its rows are divided.
    "hycam without noise and balance loss": MethodRecipe("hycam", {"r": 4, "noise": "never", "balance_weight": 0.0}),
    "lora": MethodRecipe("lora", {"r": 4, "lora_dropout": 0.0}),
    "multilora": MethodRecipe("multilora", {"r": 4, "dropout": 0.0}),
    "riemoe-lora": MethodRecipe("riemoe-lora", {"r": 4, "dropout": 0.0}),
}

# The training of each setting, and the rows of each task: with 4 the same 8 rows make every step, so that packs, which
# come in an order of their own, have to give what rows give.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "batch 8": ({}, 20),
    "batch 4 x accumulation 2": ({"batch_size": 4, "gradient_accumulation": 2}, 20),
    "gradient checkpointing": ({"gradient_checkpointing": True}, 20),
    "resumed at step 10": ({}, 20),
    "two processes": ({"batch_size": 4}, 20),
    "batch 8 of 8 rows": ({}, 4),
    "packed": ({"batch_size": 2}, 4),
}
DIVIDED = {
    "batch 4 x accumulation 2": "batch 8",
    "two processes": "batch 8",
    "packed": "batch 8 of 8 rows",
}


class SignalAt(Silence):
    """Asks this process to end when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        if what == "training" and done == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trajectory(method: str, setting: str, backbone: str, tasks: list[str], output: Path) -> dict[str, Any]:
    """Trains a method in a setting: ``loss`` and ``grad_norm`` of each step, and the adapter's ``sha256``."""
    changed, rows = SETTINGS[setting]
    options = {"batch_size": ROWS, "gradient_accumulation": 1, **changed}
    recipe = Recipe(
        backbone=backbone,
        output=str(output),
        method=METHODS[method],
        data=DataRecipe(tasks=tasks, max_length=700, train_rows=rows, packing=setting == "packed"),
        training=replace(
            TrainingRecipe(), max_steps=STEPS, learning_rate=1e-3, log_every=1, device="cpu", save_every=STEPS,
            # Adam divides a gradient by its size; one of rounding alone would make a whole step.
            extra={"adam_epsilon": 1e-5}, **options,
        ),
        evaluation=EvaluationRecipe(batch_size=8),
    )  # fmt: skip
    if setting == "two processes":
        processes(2, lambda rank: train(recipe, Silence()))
    else:
        if setting == "resumed at step 10":
            stop = Stop()
            with stop.listening(), pytest.raises(Interrupted):
                train(recipe, SignalAt(10), stop=stop)
        train(recipe, Silence())
    return found(output)


def found(run: Path) -> dict[str, Any]:
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in logged if "loss" in line]
    assert [line["step"] for line in steps] == [*range(1, STEPS + 1)]
    digest = hashlib.sha256()
    for name, weight in sorted(load_file(run / "adapter" / "adapter_model.safetensors").items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "loss": [line["loss"] for line in steps],
        "grad_norm": [line["grad_norm"] for line in steps],
        "sha256": digest.hexdigest(),
    }


def machine() -> dict[str, str]:
    """What the last bit depends on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@pytest.mark.parametrize("method", METHODS)
def test_trajectories_are_the_pinned_ones_and_agree(
    method: str, backbone: str, tasks: list[str], tmp_path: Path
) -> None:
    found = {
        setting: trajectory(method, setting, backbone, tasks, tmp_path / str(number))
        for number, setting in enumerate(SETTINGS)
    }
    for setting in ("gradient checkpointing", "resumed at step 10"):
        assert found[setting] == found["batch 8"], setting
    if method != "hycam":  # how a step is divided changes the rounding alone
        for setting, same in DIVIDED.items():
            for figure in ("loss", "grad_norm"):
                assert found[setting][figure] == pytest.approx(found[same][figure], rel=1e-5), (setting, figure)

    pins = json.loads(PINS.read_text()) if PINS.exists() else {"trajectories": {}}
    if "HYCAM_PIN" in os.environ:
        pins = {"machine": machine(), "trajectories": {**pins["trajectories"], method: found}}
        PINS.write_text(json.dumps(pins, indent=1) + "\n")
    for setting, pinned in pins["trajectories"][method].items():
        if machine() == pins["machine"]:
            assert found[setting] == pinned, setting
        for figure in ("loss", "grad_norm"):
            assert found[setting][figure] == pytest.approx(pinned[figure], rel=1e-3), (setting, figure)
