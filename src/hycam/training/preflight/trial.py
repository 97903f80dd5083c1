"""One training on nothing but the largest batch of the data, which measures each phase as it goes."""

from __future__ import annotations

import json
import os
import resource
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch

from hycam import backbones, processes
from hycam.data.mixture import Mixture
from hycam.data.prepare import Prepared
from hycam.data.recipe import MixtureRecipe
from hycam.files import write_whole
from hycam.machine import peak_memory_bytes
from hycam.training.device import torch_device
from hycam.training.preflight.batches import batches_of, largest_batch, largest_validation_batch, steps_of
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows

PHASES = {
    "data": "reading the data",
    "loaded": "loading the backbone",
    "adapted": "adapting the backbone",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "step": "the optimizer's step",
    "validation": "validation",
}
"""The phases of a trial in their order, and what happens up to the end of each."""

_CGROUP = Path("/sys/fs/cgroup")


class Trial:
    """What :func:`hycam.training.train.train` asks and tells when it trains :attr:`recipe`, of which nothing is saved.

    The optimizer's states are there only from the second step on, and of accumulated gradients from the second
    micro-batch on. So there are two steps of at most two micro-batches, each of which is the largest batch.

    Args:
        recipe: what is to be trained.
        folder: for the run and for :attr:`record`, which each process writes into its own ``RANK.json`` after every
            phase, so that it is there also of a process that was killed.

    Attributes:
        recipe: what the trial trains.
        record: ``phases`` has, for each phase, its ``seconds`` the last time and in bytes the ``peak`` (the most within
            it), ``held`` (at its end) and on a GPU ``reserved``; ``last`` names the phase that ended last. From
            :meth:`select` on there are ``free`` (bytes), ``steps`` (of the whole run) and ``batch``.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        settings = recipe.training
        self.record: dict[str, Any] = {"phases": {}, "last": None}
        self._whole, self._folder, self._since = recipe, folder, time.perf_counter()
        self._device = torch_device(settings.device)
        trial = replace(
            settings, max_steps=min(2, settings.max_steps or 2), evaluate_every=None, save_every=None, log_every=1,
            gradient_accumulation=min(2, settings.gradient_accumulation), early_stopping_patience=None, report_to=[],
        )  # fmt: skip
        data = replace(recipe.data, mixture=MixtureRecipe(), group_by_length=False)
        self.recipe = replace(recipe, output=str(folder / "run"), data=data, training=trial)

    def select(self, data: Prepared) -> Prepared:
        """The data with the rows of the largest batch alone, in training as often as the trial has micro-batches."""
        recipe, world = self._whole, processes.world_size()
        config = backbones.config(recipe.backbone, recipe.trust_remote_code)
        batch = largest_batch(recipe, data.train, config, world)
        trial = self.recipe.training
        is_full = len(batch) == trial.batch_size * world and not recipe.data.packing
        # Fewer rows, and the packs of a packed batch, would mix with their copies. Each is then an epoch of its own.
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
        self.note(free=available(self._device), steps=steps, batch={"rows": len(batch), "longest": longest})
        self.at("data")
        return chosen

    def at(self, phase: str) -> None:
        """Notes what was held up to the end of this phase; the next one begins."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            memory = {"peak": torch.cuda.max_memory_allocated(), "held": torch.cuda.memory_allocated(),
                      "reserved": torch.cuda.max_memory_reserved()}  # fmt: skip
            torch.cuda.reset_peak_memory_stats()
        else:
            memory = {"peak": peak_memory_bytes(), "held": psutil.Process().memory_info().rss}
            with suppress(OSError):  # where the system has no such file, the peak is that of all phases so far
                Path("/proc/self/clear_refs").write_text("5")
        before = self.record["phases"].get(phase, {})
        memory = {name: max(size, before.get(name, 0)) for name, size in memory.items()}
        self.record["phases"][phase] = {**memory, "seconds": time.perf_counter() - self._since}
        self.note(last=phase)
        self._since = time.perf_counter()

    def note(self, **entries: Any) -> None:
        """Adds to the record, and writes it."""
        self.record |= entries
        write_whole(self._folder / f"{os.environ.get('RANK', '0')}.json", json.dumps(self.record))


def available(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Bytes that a process may still take on a device: of the GPU, or of the machine, its container and its limits."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    limits = [psutil.virtual_memory().available]
    if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:  # ulimit -v
        limits.append(most - psutil.Process().memory_info().vms)
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such control group, or one without a limit ("max")
            statistics = (cgroup / used).with_name("memory.stat").read_text().splitlines()
            given_back = int(dict(line.split() for line in statistics).get(cache, 0))
            limits.append(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + given_back)
    return max(0, min(limits))
