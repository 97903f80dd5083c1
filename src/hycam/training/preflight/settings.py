"""Settings that contradict each other, or that do not work on this machine. Nothing is loaded or fetched."""

from __future__ import annotations

import importlib.util

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from hycam.errors import HycamError, nearest
from hycam.methods import method
from hycam.ops import set_backend
from hycam.training import distributed, savings
from hycam.training.device import torch_device
from hycam.training.preflight.finding import Findings
from hycam.training.recipe import Recipe
from hycam.tuners.hycam import HyCAMConfig

_ABOUT = "settings"
_IGNORES_WARM_UP = ("constant", "reduce_lr_on_plateau")


def check_settings(recipe: Recipe) -> Findings:
    """What a recipe's settings say by themselves, on this machine."""
    found = Findings()
    settings = recipe.training
    device = found.attempt(_ABOUT, torch_device, settings.device)
    entry = found.attempt("method", method, recipe.method.name)
    if entry is not None:
        optimizer = found.attempt("method", recipe.method.settings)
        found.attempt(_ABOUT, recipe.learning_rate)
        if optimizer is not None and recipe.evaluation.config:
            found.attempt("method", entry.config, {**recipe.method.config, **recipe.evaluation.config})
        if entry.config_class is not HyCAMConfig and settings.backend not in ("auto", "eager"):
            found.warn(
                _ABOUT,
                f"training.backend={settings.backend} does nothing here: it computes HyCAM's modulation, and the "
                f"method is {entry.name}. Leave it at auto.",
            )
    undo = found.attempt(_ABOUT, set_backend, settings.backend)
    if undo is not None:
        undo.close()
    if device is not None:
        _precision(recipe, device, found)
    _warm_up(recipe, found)
    _validation(recipe, found)
    _trackers(recipe, found)
    if recipe.data.packing and importlib.util.find_spec("trl") is None:
        found.error(_ABOUT, 'data.packing needs TRL: pip install "hycam[trl]", or leave packing off.')
    return found


def check_switches(recipe: Recipe, processes: int = 1) -> Findings:
    """What is switched on, for which the backbone's configuration may be needed, and how processes share the work."""
    found = Findings()
    try:
        device, optimizer = torch_device(recipe.training.device), recipe.method.settings()
    except HycamError:
        return found  # check_settings says so
    for refusal in savings.refusals(recipe, device, optimizer):
        found.error(_ABOUT, str(refusal))
    found.attempt(_ABOUT, distributed.check, recipe, processes)
    return found


def check_schedule(recipe: Recipe, steps: int, rows: int) -> Findings:
    """What the settings say about a run of so many optimizer steps, over so many training rows."""
    found = Findings()
    settings = recipe.training
    early = settings.early_stopping_patience
    if settings.evaluate_every is not None and settings.evaluate_every > steps:
        found.warn(
            _ABOUT,
            f"training.evaluate_every is {settings.evaluate_every:,} and the run has {steps:,} steps: it is validated "
            "at the end only. Lower it, or leave it out."
            + (" Early stopping has nothing to go by." if early is not None else ""),
        )
    elif settings.evaluate_every is not None and early is not None:
        validations = steps // settings.evaluate_every
        if validations <= early:
            found.warn(
                _ABOUT,
                f"training.early_stopping_patience is {early} and the run has {validations} validations, so it never "
                "stops early. Lower it, or training.evaluate_every.",
            )
    if settings.save_every is not None and early is None and settings.save_every > steps:
        found.warn(
            _ABOUT,
            f"training.save_every is {settings.save_every:,} and the run has {steps:,} steps: there is never a "
            "checkpoint to continue from. Lower it, or leave it out.",
        )
    if settings.log_every > steps:
        found.warn(
            _ABOUT,
            f"training.log_every is {settings.log_every} and the run has {steps} steps: no training loss is ever "
            "logged, and a loss that is no number is seen at the end only. Lower it.",
        )
    if settings.batch_size > rows and not recipe.data.packing:
        found.warn(
            _ABOUT,
            f"training.batch_size is {settings.batch_size} and there are {rows} training rows: no batch is ever full. "
            "Lower it.",
        )
    return found


def _precision(recipe: Recipe, device: torch.device, found: Findings) -> None:
    if recipe.training.precision != "bfloat16":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        found.error(
            _ABOUT,
            f"training.precision is bfloat16, which {torch.cuda.get_device_name()} does not have. Set it to float32, "
            "or to auto.",
        )
    # The processor's own instructions; without them each product is widened and narrowed again.
    if device.type == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        found.warn(
            _ABOUT,
            "training.precision is bfloat16, for which this processor has no instructions: it saves memory, and is "
            "slower than float32.",
        )


def _warm_up(recipe: Recipe, found: Findings) -> None:
    ratio, scheduler = recipe.training.warmup_ratio, recipe.training.scheduler
    if not 0 <= ratio < 1:
        found.error(
            _ABOUT,
            f"training.warmup_ratio is {ratio:g}: a share of the steps was expected, from 0 to under 1, since the rest "
            "is trained at the full rate. For so many steps, divide them by training.max_steps.",
        )
    elif ratio > 0.5:
        found.warn(
            _ABOUT,
            f"training.warmup_ratio is {ratio:g}: the learning rate rises for most of the run. 0.03 to 0.1 is usual.",
        )
    if ratio > 0 and scheduler in _IGNORES_WARM_UP:
        found.warn(
            _ABOUT,
            f"training.scheduler={scheduler} has no warm-up, so training.warmup_ratio={ratio:g} does nothing. Use "
            "constant_with_warmup, or leave the ratio at 0.",
        )


def _validation(recipe: Recipe, found: Findings) -> None:
    settings = recipe.training
    if settings.early_stopping_patience is None or settings.evaluate_every is None:
        return  # without evaluate_every the recipe itself refuses it
    if settings.save_every not in (None, settings.evaluate_every):
        found.warn(
            _ABOUT,
            f"training.save_every={settings.save_every} does nothing beside early stopping, which keeps a checkpoint "
            f"at every validation (each {settings.evaluate_every} steps). Leave it out.",
        )


def _trackers(recipe: Recipe, found: Findings) -> None:
    there = get_available_reporting_integrations()
    for name in recipe.training.report_to:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            found.error(_ABOUT, f'training.report_to has "{name}", no tracker.{nearest(name, INTEGRATION_TO_CALLBACK)}')
        elif name not in there:
            found.error(
                _ABOUT,
                f"training.report_to has {name}, which is not installed: pip install {name}, or leave it out.",
            )
