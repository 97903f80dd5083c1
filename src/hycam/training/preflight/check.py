"""All checks of a recipe, in the order in which one needs what another has found out."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hycam import backbones
from hycam.adapt import empty_backbone
from hycam.console import Reports
from hycam.data.chosen import chosen_tasks
from hycam.data.partition import partition
from hycam.data.prepare import Prepared
from hycam.methods import method
from hycam.training.arguments import training_arguments
from hycam.training.device import torch_device, torch_dtype
from hycam.training.preflight.backbone import Weights
from hycam.training.preflight.data import check_duplicates, check_lengths, check_responses, prepared
from hycam.training.preflight.finding import Findings
from hycam.training.preflight.memory import Estimate, alternatives, estimate
from hycam.training.preflight.output import check_output, check_room, room_needed, trained_kind
from hycam.training.preflight.room import resident
from hycam.training.preflight.settings import check_schedule
from hycam.training.preflight.shapes import batches_of, steps_of
from hycam.training.preflight.tables import check_tables
from hycam.training.preflight.without_data import WithoutData, check_without_data
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows
from hycam.training.run import Run
from hycam.training.saving import check_saves

_DEVIATION = 0.15  # an estimate may be so far from what is measured (docs/preflight.md)


def preflight(recipe: Recipe, reporter: Reports, free: int | None = None, processes: int = 1) -> Findings:
    """Everything that can be found out about a run before it is begun, all of it at once.

    The tokenizer is fetched and the data are prepared, as training would, and are then in the cache for it. No weights
    are loaded, and nothing is written into the run folder.

    Args:
        recipe: what is to be trained.
        reporter: shows how far the data and the estimate have come.
        free: bytes of memory that may be taken; by default what the device has free now.
        processes: how many train together. The estimate is that of one which holds everything, as under ``ddp``.
    """
    known = check_without_data(recipe, processes)
    found, config, trained = known.findings, known.config, known.trained
    if not any(one.about in ("settings", "method") for one in found.errors):
        found.attempt("settings", _arguments, recipe)
    works = not any(one.about in ("settings", "method") for one in found.errors)
    if not any(one.about == "settings" for one in found):
        found.ok("settings", "The settings do not contradict each other.")
    if trained is not None and works:
        found.ok("method", f"{recipe.method.name} trains {trained:,} parameters of {recipe.backbone}.", trained=trained)
    found += check_output(recipe)
    tokenizer = _tokenizer(recipe, known, found)
    data = _data(recipe, tokenizer, reporter, found)
    if data is not None and config is not None and tokenizer is not None:
        _rows(recipe, data, config, tokenizer, processes, found)
    if trained is not None:
        wanted = (Path(recipe.output), room_needed(recipe, trained), f"{trained_kind(recipe)} and its checkpoints")
        found += check_room(recipe, [wanted])
    if data is not None and known.weights is not None and config is not None and trained and works:
        _memory(recipe, config, data, known.weights, reporter, free, found)
    return found


def _arguments(recipe: Recipe) -> None:
    device = torch_device(recipe.training.device)
    autocast = method(recipe.method.name).trains_backbone and (
        torch_dtype(recipe.training.precision, device) == torch.bfloat16
    )
    training_arguments(recipe, Run(Path(recipe.output)), recipe.learning_rate(), device.type, autocast)


def _tokenizer(recipe: Recipe, known: WithoutData, found: Findings) -> PreTrainedTokenizerBase | None:
    """The tokenizer, where it can be had and there is room for what comes with it."""
    if known.weights is None or known.config is None:
        return None
    if known.weights.fetched_into is not None:
        wanted = (known.weights.fetched_into, known.weights.to_fetch, f"the backbone {recipe.backbone}")
        room = check_room(recipe, [wanted])
        found += room
        if room.errors:
            return None
    tokenizer = found.attempt("backbone", backbones.load_tokenizer, recipe.backbone, recipe.trust_remote_code)
    if tokenizer is not None:
        if not found.attempt("backbone", check_saves, recipe.backbone, tokenizer):
            return None
        size = _megabytes(known.weights.size)
        found.ok("backbone", f"{recipe.backbone} can be read: {known.config.model_type}, {size}.")
    return tokenizer


def _data(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None, reporter: Reports, found: Findings
) -> Prepared | None:
    if tokenizer is not None:
        of_data, data = prepared(recipe.data, tokenizer, reporter.update)
        found += of_data
        return data
    # Without a tokenizer the rows can still be read and split.
    for chosen in (found.attempt("data", chosen_tasks, recipe.data) or {}).values():
        found.attempt("data", partition, chosen, recipe.data)
    return None


def _rows(
    recipe: Recipe,
    data: Prepared,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    processes: int,
    found: Findings,
) -> None:
    """What the prepared rows say about the recipe."""
    before = len(found)
    found += check_lengths(recipe.data, data)
    found += check_responses(recipe.data, data, tokenizer)
    found += check_duplicates(data)
    rows = MixedRows(data.train)
    found += check_tables(recipe, data, tokenizer, empty_backbone(config, recipe.trust_remote_code))
    steps = found.attempt("data", lambda: steps_of(recipe, batches_of(recipe, rows, processes)))
    if steps is not None:
        found += check_schedule(recipe, steps, len(rows))
    if len(found) == before:
        tasks = ", ".join(f"{name} {len(part):,}" for name, part in data.train.items())
        found.ok("data", f"All parts have rows; for training {tasks}. {steps:,} steps.", steps=steps)


def _memory(
    recipe: Recipe,
    config: PreTrainedConfig,
    data: Prepared,
    weights: Weights,
    reporter: Reports,
    free: int | None,
    found: Findings,
) -> None:
    libraries = resident()

    def estimated(one: Recipe) -> Estimate:
        return estimate(one, config, data, weights, libraries, free)

    try:
        one = estimated(recipe)
    except RuntimeError as error:
        found.warn(
            "memory",
            f"The memory cannot be estimated: the code of {config.model_type} needs values to go on "
            f"({str(error).splitlines()[0]}). Try a step with --training.max_steps 1.",
        )
        return
    details = {
        "peak_bytes": one.peak,
        "free_bytes": one.available,
        "moment": one.moment,
        "parts": one.parts(),
        "batch": vars(one.batch),
        "device": str(one.device),
    }
    text = (
        f"At most {_megabytes(one.peak)}, in {one.moment} ({one.batch.rows} x {one.batch.length} tokens the largest "
        f"batch); {_megabytes(one.available)} are free on {one.device}."
    )
    need = one.peak - one.libraries
    if need * (1 + _DEVIATION) <= one.available:
        found.ok("memory", text, **details)
        return
    changes = alternatives(recipe, estimated, lambda done, total: reporter.update("estimating memory", done, total))
    lines = [
        f"{change.what} ({change.options}): {_megabytes(change.estimate.peak)}, "
        f"{_megabytes(one.peak - change.estimate.peak)} less, {'fits' if change.estimate.fits else 'does not fit'}"
        for change in changes
    ]
    details["alternatives"] = [
        {"what": change.what, "options": change.options, "peak_bytes": change.estimate.peak,
         "fits": change.estimate.fits}
        for change in changes
    ]  # fmt: skip
    advice = "What would change it:\n  " + "\n  ".join(lines) if lines else "Nothing in the recipe is left to save."
    if one.fits:
        found.warn("memory", f"{text} That is close: an estimate may be {_DEVIATION:.0%} off. {advice}", **details)
    else:
        found.error("memory", f"It does not fit. {text} {advice}", **details)


def _megabytes(size: int | None) -> str:
    return "of unknown size" if size is None else f"{size / 1e6:,.0f} MB"
