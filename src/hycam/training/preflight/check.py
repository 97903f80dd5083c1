"""All checks of a recipe, in the order in which one needs the results of another."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hycam import backbones
from hycam.adapt import empty_backbone
from hycam.console import Reports
from hycam.data.chosen import chosen_tasks
from hycam.data.partition import partition
from hycam.data.prepare import Prepared
from hycam.training.arguments import training_arguments
from hycam.training.preflight.backbone import Weights, check_adapter, check_backbone, check_generation
from hycam.training.preflight.data import check_duplicates, check_lengths, check_responses, check_tables, prepared
from hycam.training.preflight.findings import Findings
from hycam.training.preflight.settings import (
    check_output,
    check_room,
    check_schedule,
    check_settings,
    check_switches,
    room_needed,
    trained_kind,
)
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, batches_of, steps_of
from hycam.training.saving import check_saves


class WithoutData(NamedTuple):
    """The findings, and what was learnt on the way, None where it was not; ``trained`` counts trained parameters."""

    findings: Findings
    weights: Weights | None
    config: PreTrainedConfig | None
    trained: int | None


def check_without_data(recipe: Recipe, processes: int = 1) -> WithoutData:
    """All checks that need no data; what ``hycam train`` runs first. Only a missing configuration is fetched."""
    found = check_settings(recipe)
    of_backbone, weights = check_backbone(recipe.backbone)
    found += of_backbone
    config = trained = None
    if weights is not None:
        config = found.attempt(backbones.config, recipe.backbone, recipe.trust_remote_code, about="backbone")
    if config is not None:
        found += check_generation(recipe)
        found += check_switches(recipe, processes)
        if not any(one.about == "method" for one in found.errors):
            of_adapter, trained = check_adapter(recipe, config)
            found += of_adapter
    return WithoutData(found, weights, config, trained)


def preflight(recipe: Recipe, reporter: Reports, processes: int = 1) -> Findings:
    """Everything that can be found out about a run before it starts, all at once.

    The tokenizer is fetched and the data are prepared into the cache, as training would. No weights are loaded, and
    nothing is written into the run folder.

    Args:
        recipe: what is to be trained.
        reporter: shows the progress of the data.
        processes: how many train together.
    """
    known = check_without_data(recipe, processes)
    found = known.findings
    if not any(one.about in ("settings", "method") for one in found.errors):
        found.attempt(training_arguments, recipe, about="settings")
    if not any(one.about == "settings" for one in found):
        found.ok("The settings do not contradict each other.", "settings")
    if known.trained is not None and not any(one.about in ("settings", "method") for one in found.errors):
        text = f"{recipe.method.name} trains {known.trained:,} parameters of {recipe.backbone}."
        found.ok(text, "method", trained=known.trained)
    found += check_output(recipe)
    tokenizer = _tokenizer(recipe, known, found)
    if tokenizer is not None:
        of_data, data = prepared(recipe.data, tokenizer, reporter.update)
        found += of_data
        if data is not None and known.config is not None:
            _rows(recipe, data, known.config, tokenizer, processes, found)
    else:  # the rows can still be read and split
        for chosen in (found.attempt(chosen_tasks, recipe.data, about="data") or {}).values():
            found.attempt(partition, chosen, recipe.data, about="data")
    if known.trained:
        what = f"{trained_kind(recipe)} and its checkpoints"
        found += check_room(Path(recipe.output), room_needed(recipe, known.trained), what)
    return found


def _tokenizer(recipe: Recipe, known: WithoutData, found: Findings) -> PreTrainedTokenizerBase | None:
    """The tokenizer, where it can be had and there is room for what comes with it."""
    weights = known.weights
    if weights is None or known.config is None:
        return None
    if weights.fetched_into is not None:
        what = f"the backbone {recipe.backbone} (HYCAM_CACHE and HF_HOME name other folders)"
        room = check_room(weights.fetched_into, weights.to_fetch, what)
        found += room
        if room.errors:
            return None
    tokenizer = found.attempt(backbones.load_tokenizer, recipe.backbone, recipe.trust_remote_code, about="backbone")
    if tokenizer is None or not found.attempt(check_saves, recipe.backbone, tokenizer, about="backbone"):
        return None
    size = "of unknown size" if weights.size is None else f"{weights.size / 1e6:,.0f} MB"
    found.ok(f"{recipe.backbone} can be read: {known.config.model_type}, {size}.", "backbone")
    return tokenizer


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
    found += check_tables(recipe, data, tokenizer, empty_backbone(config, recipe.trust_remote_code))
    rows = MixedRows(data.train)
    steps = found.attempt(lambda: steps_of(recipe, batches_of(recipe, rows, processes)), about="data")
    if steps is not None:
        found += check_schedule(recipe, steps, len(rows))
    if len(found) == before:
        tasks = ", ".join(f"{name} {len(part):,}" for name, part in data.train.items())
        found.ok(f"All parts have rows; for training {tasks}. {steps:,} steps.", "data", steps=steps)
