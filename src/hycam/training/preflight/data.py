"""What became of the data: rows that are dropped or shortened, responses that are lost, rows in two parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.encode import encode
from hycam.data.partition import partition
from hycam.data.prepare import Prepared, Progress, form_of, prepare
from hycam.data.recipe import PARTS, DataRecipe, MixtureRecipe
from hycam.errors import HycamError
from hycam.training.preflight.finding import Findings

_ABOUT = "data"

# From half on, what is trained is another data set than the one that was named, and the rows that are left are not a
# sample of it: they are its short ones. A tenth shows in the results of a task.
MOST_LOST = 0.5
MANY_LOST = 0.1
# A prompt without its middle can still be answered often; when a quarter of them are, it should be known.
MANY_SHORTENED = 0.25

_SAMPLE = 500  # rows of a task, to count what is lost of the responses
_MOST_ROWS = 200_000  # of all parts, up to which rows are compared with one another
_NO_LIMIT = 1 << 24


def prepared(
    recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> tuple[Findings, Prepared | None]:
    """The data of a recipe, as training prepares them, or what is wrong with each task."""
    found = Findings()
    try:
        return found, prepare(recipe, tokenizer, progress)
    except HycamError as error:
        whole = str(error)
    # The first task that fails hides those behind it. Each alone: what was tokenised before is in the cache.
    for entry in recipe.tasks if len(recipe.tasks) > 1 else ():
        alone = replace(recipe, tasks=[entry], mixture=MixtureRecipe())
        found.attempt(_ABOUT, prepare, alone, tokenizer, progress)
    if not found:
        found.error(_ABOUT, whole)
    return found, None


def check_lengths(recipe: DataRecipe, data: Prepared) -> Findings:
    """How many rows the maximum length drops or shortens, by the counts that are there."""
    found = Findings()
    for part in PARTS:
        for name, counts in data.counts[part].items():
            dropped, shortened = counts.dropped / max(1, counts.rows), counts.shortened / max(1, counts.kept)
            where = f"{name}: of the {counts.rows:,} {part} rows, {{:.0%}} are {{}}"
            if dropped > MANY_LOST:
                shorten = ", or set data.overlong to shorten" if recipe.overlong == "drop" else ""
                advice = f"Raise data.max_length ({recipe.max_length:,}){shorten}, or leave the task out."
                (found.error if dropped > MOST_LOST else found.warn)(
                    _ABOUT,
                    f"{where.format(dropped, 'dropped as too long')}, so that the short ones are left. {advice}",
                )
            if shortened > MANY_SHORTENED:
                found.warn(
                    _ABOUT,
                    f"{where.format(shortened, 'shortened')} in the middle of the prompt. Raise data.max_length "
                    f"({recipe.max_length:,}) if what is asked stands there.",
                )
    return found


def check_responses(recipe: DataRecipe, data: Prepared, tokenizer: PreTrainedTokenizerBase) -> Findings:
    """How much of the responses the maximum length loses, counted on a sample of each task that loses any."""
    found = Findings()
    for name, chosen in chosen_tasks(recipe).items():
        counts = [data.counts[part][name] for part in PARTS]
        if not any(one.dropped or one.shortened for one in counts):
            continue
        lost = _lost(chosen, recipe, tokenizer)
        text = (
            f"{name}: {lost:.0%} of the response tokens do not fit into data.max_length ({recipe.max_length:,}) and "
            "are not trained on. Raise it, or leave the task out."
        )
        if lost > MANY_LOST:
            (found.error if lost > MOST_LOST else found.warn)(_ABOUT, text)
    return found


def _lost(chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of the labelled tokens of a task's training rows that are dropped or cut, in a sample of the rows."""
    rows = partition(chosen, recipe).part("train")
    sample = rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int)))
    form = form_of(chosen, recipe)
    kept, whole = (
        encode(sample, tokenizer, one).counts.response_tokens for one in (form, replace(form, max_length=_NO_LIMIT))
    )
    return 1 - kept / whole if whole else 0.0


def check_duplicates(data: Prepared) -> Findings:
    """Rows that are validated or tested on and have the whole prompt of a training row, of any task."""
    found = Findings()
    parts = {part: getattr(data, part) for part in PARTS}
    if sum(len(rows) for tasks in parts.values() for rows in tasks.values()) > _MOST_ROWS:
        return found
    trained = {hash(prompt) for rows in parts["train"].values() for prompt in _prompts(rows)}
    for part in ("validation", "test"):
        for name, rows in parts[part].items():
            known = sum(hash(prompt) in trained for prompt in _prompts(rows))
            if known:
                found.warn(
                    _ABOUT,
                    f"{name}: {known:,} of {len(rows):,} {part} rows ask what a training row asks, word for word, so a "
                    "figure on them says little about new questions. Drop duplicates from the source, or split by a "
                    "group (columns: {group: ...}).",
                )
    return found


def _prompts(rows: datasets.Dataset) -> Iterator[str]:
    for batch in rows.select_columns(["prompt"]).with_format("arrow").iter(batch_size=1000):
        yield from batch["prompt"].to_pylist()
