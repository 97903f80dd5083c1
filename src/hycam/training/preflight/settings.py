"""Settings that contradict each other or do not work on this machine; the run folder and its disk. Loads nothing."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from hycam.errors import HycamError, nearest
from hycam.files import needs_room
from hycam.lock import LOCK_FILE, alone
from hycam.methods import method
from hycam.ops import set_backend
from hycam.training import distributed, savings
from hycam.training.checkpoints import Checkpoints
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.tuners.hycam import HyCAMConfig


def check_settings(recipe: Recipe) -> Findings:
    """The settings by themselves, on this machine."""
    found = Findings("settings")
    settings = recipe.training
    device = found.attempt(settings.torch_device)
    entry = found.attempt(method, recipe.method.name, about="method")
    if entry is not None:
        optimizer = found.attempt(recipe.method.settings, about="method")
        found.attempt(recipe.learning_rate)
        if optimizer is not None and recipe.evaluation.config:
            found.attempt(entry.config, {**recipe.method.config, **recipe.evaluation.config}, about="method")
        if entry.config_class is not HyCAMConfig and settings.backend not in ("auto", "eager"):
            found.warn(
                f"training.backend={settings.backend} does nothing here: it computes HyCAM's modulation, and the "
                f"method is {entry.name}. Leave it at auto."
            )
    undo = found.attempt(set_backend, settings.backend)
    if undo is not None:
        undo.close()
    if device is not None and settings.precision == "bfloat16":
        _bfloat16(device, found)
    _schedule(recipe, found)
    _trackers(recipe, found)
    if recipe.data.packing and importlib.util.find_spec("trl") is None:
        found.error('data.packing needs TRL: pip install "hycam[trl]", or leave packing off.')
    return found


def check_switches(recipe: Recipe, processes: int = 1) -> Findings:
    """Optional savings, which may depend on the backbone's configuration, and the strategy for several processes."""
    found = Findings("settings")
    try:
        device, optimizer = recipe.training.torch_device(), recipe.method.settings()
    except HycamError:
        return found  # check_settings says so
    for refusal in savings.refusals(recipe, device, optimizer):
        found.error(str(refusal))
    found.attempt(distributed.check, recipe, processes)
    return found


def check_schedule(recipe: Recipe, steps: int, rows: int) -> Findings:
    """The settings beside the number of optimizer steps and of training rows."""
    found = Findings("settings")
    settings = recipe.training
    early, every = settings.early_stopping_patience, settings.evaluate_every
    if every is not None and every > steps:
        found.warn(
            f"training.evaluate_every is {every:,} and the run has {steps:,} steps: it is validated at the end only. "
            f"Lower it, or leave it out.{'' if early is None else ' Early stopping has nothing to go by.'}"
        )
    elif every is not None and early is not None and steps // every <= early:
        found.warn(
            f"training.early_stopping_patience is {early} and the run has {steps // every} validations, so it never "
            "stops early. Lower it, or training.evaluate_every."
        )
    if settings.save_every is not None and early is None and settings.save_every > steps:
        found.warn(
            f"training.save_every is {settings.save_every:,} and the run has {steps:,} steps: there is never a "
            "checkpoint to continue from. Lower it, or leave it out."
        )
    if settings.log_every > steps:
        found.warn(
            f"training.log_every is {settings.log_every} and the run has {steps} steps: no training loss is ever "
            "logged, and a loss that is not finite is noticed at the end only. Lower it."
        )
    if settings.batch_size > rows and not recipe.data.packing:
        found.warn(
            f"training.batch_size is {settings.batch_size} and there are {rows} training rows: no batch is ever full. "
            "Lower it."
        )
    return found


def processor_flags() -> set[str]:
    """The processor's instruction sets, as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def _bfloat16(device: torch.device, found: Findings) -> None:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        found.error(
            f"training.precision is bfloat16, which {torch.cuda.get_device_name()} does not have. Set it to float32, "
            "or to auto."
        )
    # Without instructions of its own the processor converts each product to float32 and back.
    if device.type == "cpu" and not processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"}:
        found.warn(
            "training.precision is bfloat16, for which this processor has no instructions: it saves memory, and is "
            "slower than float32."
        )


def _schedule(recipe: Recipe, found: Findings) -> None:
    settings = recipe.training
    ratio, scheduler = settings.warmup_ratio, settings.scheduler
    if not 0 <= ratio < 1:
        found.error(
            f"training.warmup_ratio is {ratio:g}: a share of the steps was expected, from 0 to under 1, since the rest "
            "is trained at the full rate. For so many steps, divide them by training.max_steps."
        )
    elif ratio > 0.5:
        found.warn(
            f"training.warmup_ratio is {ratio:g}: the learning rate rises for most of the run. 0.03 to 0.1 is usual."
        )
    if ratio > 0 and scheduler in ("constant", "reduce_lr_on_plateau"):
        found.warn(
            f"training.scheduler={scheduler} has no warm-up, so training.warmup_ratio={ratio:g} does nothing. Use "
            "constant_with_warmup, or leave the ratio at 0."
        )
    if settings.early_stopping_patience is not None and settings.save_every not in (None, settings.evaluate_every):
        found.warn(
            f"training.save_every={settings.save_every} does nothing beside early stopping, which keeps a checkpoint "
            f"at every validation (each {settings.evaluate_every} steps). Leave it out."
        )


def _trackers(recipe: Recipe, found: Findings) -> None:
    installed = get_available_reporting_integrations()
    for name in recipe.training.report_to:
        if name in ("all", "none", *installed):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            found.error(f'training.report_to has "{name}", no tracker.{nearest(name, INTEGRATION_TO_CALLBACK)}')
        else:
            found.error(f"training.report_to has {name}, which is not installed: pip install {name}, or leave it out.")


def check_output(recipe: Recipe) -> Findings:
    """Whether the run folder is free or holds this very recipe, and can be written. Leaves nothing behind."""
    found = Findings("output")
    run = Run(Path(recipe.output))
    for check in (lambda: run.check(recipe), lambda: _check_writable(run.folder), lambda: _check_free(run.folder)):
        found.attempt(check)
        if found:
            return found
    checkpoint = run.last_checkpoint()
    if run.summary() is not None:
        found.warn(f"{run.folder} is complete already; nothing would be trained again.")
    elif checkpoint is not None:
        found.ok(f"{run.folder} holds this run; it continues from {Path(checkpoint).name}.")
    else:
        found.ok(f"{run.folder} is free.")
    return found


def room_needed(recipe: Recipe, trained: int) -> int:
    """Bytes that the run folder takes at most, for so many trained parameters.

    These are float32; a checkpoint has them too, with AdamW's two moments. While one is written, there is one more
    than are kept.
    """
    settings = recipe.training
    goes_back = settings.early_stopping_patience is not None
    keeps = settings.save_every is not None or goes_back
    most = Checkpoints(Run(Path(recipe.output)).checkpoints, goes_back=goes_back).most + 1 if keeps else 0
    moments = 8 if settings.optimizer_states == "32bit" else 3  # of 8 bits each, and what is kept beside them
    return trained * (4 + (4 + moments) * most)


def check_room(folder: Path, size: int, what: str) -> Findings:
    """Whether a folder's disk has room for ``size`` bytes of ``what``."""
    found = Findings("disk")
    found.attempt(needs_room, folder, size, what)
    if not found:
        found.ok(f"There is room in {folder} for {what}, at most {size / 1e6:,.0f} MB.")
    return found


def trained_kind(recipe: Recipe) -> str:
    """What a run saves, in words."""
    return "the model" if method(recipe.method.name).trains_backbone else "the adapter"


def _check_free(folder: Path) -> None:
    if (folder / LOCK_FILE).exists():
        with alone(folder, "trains in"):
            pass


def _check_writable(folder: Path) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise HycamError(
            f"The run folder {folder} cannot be written: {there} refuses it ({error.strerror or error}). Name another "
            "folder with --output, or change its rights."
        ) from error
