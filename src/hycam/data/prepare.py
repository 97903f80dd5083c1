"""From a recipe to the token ids of each task's three parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.encode import Counts, Encoded, encode, encode_on_disk, warn_of_bad_rows
from hycam.data.partition import Rows, column, in_order, partition
from hycam.data.prompts import Form, check_prompt
from hycam.data.recipe import PARTS, DataRecipe
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

_FEW = 2000  # rows of a part: tokenising so few each time is quicker than all rows of the task once

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the rows done and the total."""


@dataclass(frozen=True)
class Prepared:
    """Each part is a dataset per task, in the recipe's order of tasks, with the columns of ``Encoded``.

    ``counts[part][task]`` says what happened to the rows. ``fingerprint`` is a SHA-256 over row identities and token
    ids of all parts: two runs with the same one saw the same data. ``thinks`` says whether most trained responses
    contain a thought, so that a chat template that supports both asks for one.
    """

    train: dict[str, datasets.Dataset]
    validation: dict[str, datasets.Dataset]
    test: dict[str, datasets.Dataset]
    counts: dict[str, dict[str, Counts]]
    fingerprint: str
    thinks: bool


def prepare(recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Prepared:
    """Loads, splits and tokenises every task of the recipe, and logs one line for each.

    A task of which all rows are wanted is tokenised once for all folds, parts and runs, and cached. In memory are only
    a few dozen bytes per row.

    Raises:
        HycamError: no task, an unknown one, or two of one name; data that are missing, unreadable or cannot be split; a
            part without a row left.
    """
    check_prompt(recipe.prompt, tokenizer)
    parts: dict[str, dict[str, Encoded]] = {part: {} for part in PARTS}
    for name, chosen in chosen_tasks(recipe).items():
        bad: dict[int, str] = {}
        for part, encoded in _encode_parts(chosen, recipe, tokenizer, progress).items():
            parts[part][name] = encoded
            bad |= encoded.bad
        warn_of_bad_rows(name, bad)
        _log.info("%s: %s", name, "; ".join(_describe(part, parts[part][name].counts) for part in PARTS))
    rows = {part: {name: encoded.dataset for name, encoded in tasks.items()} for part, tasks in parts.items()}
    counts = {part: {name: encoded.counts for name, encoded in tasks.items()} for part, tasks in parts.items()}
    thoughts = sum(int(encoded.column("thinks").sum()) for encoded in parts["train"].values())
    thinks = 2 * thoughts > sum(one.kept for one in counts["train"].values())
    return Prepared(**rows, counts=counts, fingerprint=_fingerprint(parts), thinks=thinks)


def encode_all(
    chosen: Chosen,
    rows: Rows,
    recipe: DataRecipe,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
) -> Encoded:
    """All rows of a task, tokenised once for every fold, part and run."""
    done, total = 0, len(rows.dataset)

    def add(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(f"tokenising {chosen.name}", done, total)

    return encode_on_disk(chosen.name, rows.source, rows.dataset, tokenizer, form_of(chosen, recipe), add)


def form_of(chosen: Chosen, recipe: DataRecipe) -> Form:
    """How the rows of a task of a recipe become tokens."""
    return Form(recipe.prompt, recipe.max_length, recipe.overlong, chosen.entry.turns, recipe.skip_bad_rows)


def _encode_parts(
    chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None
) -> dict[str, Encoded]:
    divided = partition(chosen, recipe)
    limits = {"train": recipe.train_rows, "validation": recipe.validation_rows, "test": recipe.test_rows}
    whole: Encoded | None = None
    encoded = {}
    for part, limit in limits.items():
        order = np.array(getattr(divided.split, part))
        if limit is not None and limit < len(order):
            order = order[in_order(column(divided.part(part), "row"), recipe.seed)]
        limit = len(order) if limit is None else min(limit, len(order))
        if limit < len(order) and limit <= _FEW:
            encoded[part] = _encode_first(divided.rows.dataset, order, limit, tokenizer, form_of(chosen, recipe))
        else:
            whole = whole or encode_all(chosen, divided.rows, recipe, tokenizer, progress)
            encoded[part] = whole.first(order, limit)
        if not encoded[part].counts.kept:
            raise _nothing_left(chosen.name, part, encoded[part], recipe)
    return encoded


def _encode_first(
    dataset: datasets.Dataset, order: np.ndarray, limit: int, tokenizer: PreTrainedTokenizerBase, form: Form
) -> Encoded:
    """``encode_all(...).first(order, limit)``, without tokenising many more rows than needed."""
    tried = limit
    while True:
        encoded = encode(dataset, tokenizer, form, numbers=np.sort(order[:tried]))
        if len(encoded.places) >= limit or tried >= len(order):
            return encoded.first(order[:tried], limit)
        tried *= 2  # some were dropped as too long


def _nothing_left(name: str, part: str, encoded: Encoded, recipe: DataRecipe) -> HycamError:
    counts = encoded.counts
    if not counts.dropped:
        first = encoded.bad[min(encoded.bad)]
        return HycamError(f"{name}: no row is left in the {part} part, all are malformed; the first: {first}")
    others = f" and the other {counts.bad:,} malformed" if counts.bad else ""
    return HycamError(
        f"{name}: no row is left in the {part} part, all {counts.dropped} are too long{others}. "
        f'Raise max_length ({recipe.max_length}), or set overlong to "shorten".'
    )


def _fingerprint(parts: Mapping[str, Mapping[str, Encoded]]) -> str:
    """SHA-256 (hexadecimal) of the parts: their names, the tasks, each row's identity, prompt length and token ids."""
    digest = hashlib.sha256()
    for part, tasks in parts.items():
        for name, encoded in tasks.items():
            digest.update(f"{part}\0{name}\0{len(encoded.places)}\0".encode())
            digest.update("\0".join(encoded.whole.data.column("row").take(encoded.places).to_pylist()).encode())
            digest.update(encoded.column("prompt_length").astype("<i4").tobytes())
            digest.update(encoded.lengths.astype("<i4").tobytes())
            for ids in encoded.token_ids():
                digest.update(ids.astype("<i4", copy=False).data)
    return digest.hexdigest()


def _describe(part: str, counts: Counts) -> str:
    special = [f"{n:,} {what}" for n, what in ((counts.shortened, "shortened"), (counts.dropped, "dropped")) if n]
    tail = f", {', '.join(special)} as too long" if special else ""
    return f"{part} {counts.kept:,} rows of {counts.tokens:,} tokens ({counts.response_tokens:,} trained){tail}"
