"""``hycam check --try``: two steps on the largest batch of the data, measured phase by phase.

They are made in processes of their own, so that one that the system kills still ends in a message.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
import torch.distributed as dist
import yaml

from hycam import backbones, processes
from hycam.console import Silence
from hycam.data.mixture import Mixture
from hycam.data.prepare import Prepared
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.machine import available_bytes, peak_memory_bytes
from hycam.methods import method
from hycam.training.launch import Failed, end_with_launcher, launch
from hycam.training.parse import parse_recipe
from hycam.training.preflight import CHILD
from hycam.training.preflight.data import largest_batch, largest_validation_batch
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, batches_of, steps_of
from hycam.training.train import train
from hycam.tuners.hycam import HyCAMConfig

PHASES = {
    "data": "reading the data",
    "loaded": "loading the backbone",
    "adapted": "adapting the backbone",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "step": "the optimizer's step",
    "validation": "validation",
}
"""The phases of a trial, in order."""

_RECOMPUTING = "recompute"  # the backend of HyCAM's modulation that keeps the least
_TOO_LITTLE = re.compile(r"out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc", re.IGNORECASE)


class Trial:
    """Chooses the rows of a trial's training and records its phases, as :class:`hycam.training.job.Trial`.

    The optimizer's states are there from the second step on, and accumulated gradients from the second micro-batch on.
    So there are two steps of at most two micro-batches, each of them the largest batch.

    Args:
        recipe: what is to be trained.
        folder: for the run and for :attr:`record`, which each process writes into its own ``RANK.json`` after every
            phase, so that it survives a process that is killed.

    Attributes:
        recipe: what the trial trains.
        record: ``phases`` has the last ``seconds`` of each phase and, in bytes, its ``peak``, what was ``held`` at its
            end and on a GPU ``reserved``; ``last`` names the phase that ended last. From :meth:`select` on there are
            ``free`` (bytes), ``steps`` (of the whole run) and ``batch``.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        settings = recipe.training
        self.record: dict[str, Any] = {"phases": {}, "last": None}
        self._whole, self._folder, self._since = recipe, folder, time.perf_counter()
        self._device = settings.torch_device()
        trial = replace(
            settings, max_steps=min(2, settings.max_steps or 2), evaluate_every=None, save_every=None, log_every=1,
            gradient_accumulation=min(2, settings.gradient_accumulation), early_stopping_patience=None, report_to=[],
        )  # fmt: skip
        data = replace(recipe.data, mixture=MixtureRecipe(), group_by_length=False)
        self.recipe = replace(recipe, output=str(folder / "run"), data=data, training=trial)

    def select(self, data: Prepared) -> Prepared:
        """The data with only the rows of the largest batch, repeated for each micro-batch of the trial."""
        recipe, world = self._whole, processes.world_size()
        config = backbones.config(recipe.backbone, recipe.trust_remote_code)
        batch = largest_batch(recipe, data.train, config, world)
        trial = self.recipe.training
        is_full = len(batch) == trial.batch_size * world and not recipe.data.packing
        # Copies of fewer rows, or of a packed batch, would mix within a micro-batch. Then each epoch is one of them.
        copies = trial.max_steps * trial.gradient_accumulation if is_full and trial.max_steps else 1
        rows = np.empty(copies * len(batch), dtype=np.int64)
        rows[Mixture(MixtureRecipe(), {"": len(rows)}, trial.seed).epoch(0)] = batch * copies
        chosen = replace(
            data,
            train={"largest batch": datasets.concatenate_datasets(list(data.train.values())).select(rows)},
            validation=largest_validation_batch(data.validation, config, recipe.evaluation.batch_size),
        )
        longest = int(MixedRows(chosen.train).lengths.max())
        steps = steps_of(recipe, batches_of(recipe, MixedRows(data.train), world))
        self.note(free=available_bytes(self._device), steps=steps, batch={"rows": len(batch), "longest": longest})
        self.at("data")
        return chosen

    def at(self, phase: str) -> None:
        """Records the phase that ends here."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            memory = {"peak": torch.cuda.max_memory_allocated(), "held": torch.cuda.memory_allocated(),
                      "reserved": torch.cuda.max_memory_reserved()}  # fmt: skip
            torch.cuda.reset_peak_memory_stats()
        else:
            memory = {"peak": peak_memory_bytes(), "held": psutil.Process().memory_info().rss}
            with suppress(OSError):  # without such a file, the peak is that of all phases so far
                Path("/proc/self/clear_refs").write_text("5")
        before = self.record["phases"].get(phase, {})
        memory = {name: max(size, before.get(name, 0)) for name, size in memory.items()}
        self.record["phases"][phase] = {**memory, "seconds": time.perf_counter() - self._since}
        self.note(last=phase)
        self._since = time.perf_counter()

    def note(self, **entries: Any) -> None:
        """Adds to the record and writes it."""
        self.record |= entries
        write_whole(self._folder / f"{os.environ.get('RANK', '0')}.json", json.dumps(self.record))


def try_out(recipe: Recipe, world: int = 1) -> Findings:
    """Trains on the largest batch in as many processes as training will have.

    Args:
        recipe: what is to be trained; it has passed the other checks.
        world: how many processes train together.

    Returns:
        one finding; its details have the phases of each process (see :class:`Trial`).
    """
    with tempfile.TemporaryDirectory(prefix="hycam-trial-") as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe), sort_keys=False))
        ended = _launched(folder, world) if world > 1 else _in_a_process(folder)
        paths = [folder / f"{rank}.json" for rank in range(world)]
        records = [json.loads(path.read_text()) if path.exists() else {"phases": {}, "last": None} for path in paths]
    fullest = max(records, key=_peak)
    details = {
        "device": str(recipe.training.torch_device()),
        "peak_bytes": _peak(fullest),
        "free_bytes": min((one["free"] for one in records if "free" in one), default=None),
        "batch": fullest.get("batch"),
        "processes": [one["phases"] for one in records],
    }
    if all("done" in one for one in records):
        return _what_it_takes(recipe, fullest, details)
    return _why_it_ended(recipe, records, ended, details)


def run_child(folder: Path) -> int:
    """Trains as one process of a trial, which leaves its record in the folder; returns the exit status."""
    end_with_launcher()
    logging.getLogger("hycam").setLevel(logging.ERROR)  # warnings are among the findings of the other checks
    with suppress(OSError):  # so that the system kills this one first when memory runs out
        Path("/proc/self/oom_score_adj").write_text("500")
    trial = Trial(parse_recipe(Recipe, [str(folder / "recipe.yaml")]), folder)
    try:
        train(trial.recipe, Silence(), trial=trial)
        trial.note(done=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        is_explained = isinstance(error, HycamError)
        if not is_explained and not _is_out_of_memory(error):
            traceback.print_exc()
        first = next(iter(str(error).strip().splitlines()), "")
        text = str(error) if is_explained else f"{type(error).__name__}: {first}"
        trial.note(error=text, out_of_memory=_is_out_of_memory(error))
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _in_a_process(folder: Path) -> str:
    """Runs the trial in one process; returns by which signal it was killed, if any."""
    process = subprocess.Popen([sys.executable, "-m", "hycam.cli.main", "check", CHILD, str(folder)])
    try:
        status = process.wait()
    finally:
        process.kill()
        process.wait()
    return f" by {signal.Signals(-status).name}" if status < 0 else ""


def _launched(folder: Path, world: int) -> str:
    """The same in several processes, through ``hycam train``'s launcher."""
    try:
        launch("check", [CHILD, str(folder)], world)
    except Failed as error:
        if error.status > 128:  # the user stopped it
            raise
        named = re.search(r"SIG\w+", str(error))
        return f" by {named[0]}" if named else ""
    return ""


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _TOO_LITTLE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _peak(record: dict[str, Any]) -> int:
    return max((phase["peak"] for phase in record["phases"].values()), default=0)


def _what_it_takes(recipe: Recipe, record: dict[str, Any], details: dict[str, Any]) -> Findings:
    phases, found = record["phases"], Findings("memory")
    moment = max(phases, key=lambda name: phases[name]["peak"])
    micro_batch = phases["forward"]["seconds"] + phases["backward"]["seconds"]
    seconds = recipe.training.gradient_accumulation * micro_batch + phases["step"]["seconds"]
    number = len(details["processes"])
    found.ok(
        f"It fits: at most {details['peak_bytes'] / 1e6:,.0f} MB{f' in each of {number} processes' * (number > 1)}, in "
        f"{PHASES[moment]}. {_there(details)} A step of such batches takes {seconds:.1f} s; the run has "
        f"{record['steps']:,}.",
        **details,
        moment=moment,
        step_seconds=seconds,
    )
    return found


def _why_it_ended(recipe: Recipe, records: list[dict[str, Any]], ended: str, details: dict[str, Any]) -> Findings:
    found = Findings("memory")
    # One that ran out of memory, or was killed without a word, explains the others.
    first = min(records, key=lambda one: (not one.get("out_of_memory"), "error" in one or "done" in one))
    when = f"after {PHASES[first['last']]}" if first["last"] else "before the data were read"
    if first.get("out_of_memory"):
        why = f"Memory ran out {when} ({first['error']})."
    elif "error" in first:
        found.error(f"The trial failed {when}: {first['error']}", "trial", **details)
        return found
    else:
        system = ", as the system does when memory runs out" if "SIGKILL" in ended else ""
        why = f"The trial was ended{ended}{system}, {when}."
    if details["batch"]:
        why += f" It had held {_peak(first) / 1e6:,.0f} MB by then. {_there(details)}"
    found.error(f"It does not fit. {why} {_advice(recipe, first)}", **details)
    return found


def _there(details: dict[str, Any]) -> str:
    batch = details["batch"]
    return (
        f"With the data loaded, {details['free_bytes'] / 1e6:,.0f} MB were free on {details['device']}. The largest "
        f"batch has {batch['rows']} rows, the longest of {batch['longest']:,} tokens."
    )


def _advice(recipe: Recipe, record: dict[str, Any]) -> str:
    """Options that save memory, the cheapest first."""
    settings, entry = recipe.training, method(recipe.method.name)
    found = []
    if record["last"] not in (None, "data", "loaded"):  # until then there is only the backbone
        if settings.batch_size > 1:
            half, twice = settings.batch_size // 2, settings.gradient_accumulation * 2
            options = f"--training.batch_size {half} --training.gradient_accumulation {twice}"
            found.append(f"{options}: half the activations, and as many rows in a step")
        if entry.config_class is HyCAMConfig and settings.backend != _RECOMPUTING and not settings.torch_compile:
            found.append(f"--training.backend {_RECOMPUTING}: the modulation is recomputed in the backward pass")
        if settings.optimizer_states == "32bit" and not recipe.method.settings().preconditioned:
            found.append("--training.optimizer_states 8bit: a quarter of the optimizer's states")
        if not settings.gradient_checkpointing:
            found.append("--training.gradient_checkpointing true: every block is computed twice and keeps little")
        half = max(1, record["batch"]["longest"] // 2)
        found.append(f"--data.max_length {half}: longer rows are truncated or dropped")
    if settings.torch_dtype() == torch.float32:
        found.append("--training.precision bfloat16: half the backbone")
    if recipe.quantization != "4bit" and not entry.trains_backbone:
        found.append("--quantization 4bit: an eighth of what the backbone's linear layers take in float32")
    return "\n  ".join(["What takes less memory:", *found]) if found else "Nothing in the recipe is left to save."
