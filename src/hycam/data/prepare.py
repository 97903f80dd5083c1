"""From a recipe to the token ids of every task's three parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hycam.data.encode import Counts, Encoded, encode
from hycam.data.load import load_task
from hycam.data.recipe import DataRecipe
from hycam.data.splits import order_key, split_fold
from hycam.data.tasks import task
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prepared:
    """Each part is a dataset per task, in the recipe's order of tasks, with the columns that ``Encoded`` describes.

    ``counts[part][task]`` says what became of the rows. ``fingerprint`` is a SHA-256 over row identities and token ids
    of all parts: two runs with the same one saw the same data.
    """

    train: dict[str, datasets.Dataset]
    validation: dict[str, datasets.Dataset]
    test: dict[str, datasets.Dataset]
    counts: dict[str, dict[str, Counts]]
    fingerprint: str


def prepare(recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Loads, splits and tokenises every task of the recipe, and logs one line for each.

    Raises:
        HycamError: no task, an unknown one or two of one name; data that cannot be had, read or split; a part that has
            no row left.
    """
    names = _names(recipe.tasks)
    parts: dict[str, dict[str, datasets.Dataset]] = {part: {} for part in PARTS}
    counts: dict[str, dict[str, Counts]] = {part: {} for part in PARTS}
    for name, name_or_path in names.items():
        for part, encoded in _encode_parts(name, name_or_path, recipe, tokenizer).items():
            parts[part][name] = encoded.dataset
            counts[part][name] = encoded.counts
        _log.info("%s: %s", name, "; ".join(_describe(part, counts[part][name]) for part in PARTS))
    return Prepared(**parts, counts=counts, fingerprint=fingerprint(parts))


def fingerprint(parts: Mapping[str, Mapping[str, datasets.Dataset]]) -> str:
    """SHA-256 (hexadecimal) of the parts: their names, the tasks, each row's identity, prompt length and token ids."""
    digest = hashlib.sha256()
    for part, tasks in parts.items():
        for name, dataset in tasks.items():
            digest.update(f"{part}\0{name}\0{len(dataset)}\0".encode())
            digest.update("\0".join(dataset["row"]).encode())
            digest.update(np.asarray(dataset["prompt_length"], dtype="<i4").tobytes())
            ids = dataset.with_format("arrow")[:]["input_ids"].combine_chunks()
            digest.update(np.asarray(ids.value_lengths(), dtype="<i4").tobytes())
            digest.update(np.asarray(ids.flatten(), dtype="<i4").tobytes())
    return digest.hexdigest()


def _names(tasks: list[str]) -> dict[str, str]:
    """Name of each task -> how the recipe spells it."""
    if not tasks:
        raise HycamError('No task is named. Name some under "tasks"; `hycam data list` shows those there are.')
    names: dict[str, str] = {}
    for name_or_path in tasks:
        name = task(name_or_path).name
        if name in names:
            raise HycamError(
                f'Two tasks are called "{name}": {names[name]} and {name_or_path}. A file is called after its name; '
                "rename one of them, or leave one out."
            )
        names[name] = name_or_path
    return names


def _encode_parts(
    name: str, name_or_path: str, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Encoded]:
    dataset = load_task(name_or_path)
    try:
        split = split_fold(dataset["group"], recipe.fold, recipe.seed)
    except HycamError as error:
        raise HycamError(f"{name}: {error}") from error
    limits = {"train": recipe.train_rows, "validation": recipe.validation_rows, "test": recipe.test_rows}
    encoded = {}
    for part, limit in limits.items():
        rows = dataset.select(getattr(split, part))
        encoded[part] = _encode_first(rows, len(rows) if limit is None else limit, recipe, tokenizer)
        if not encoded[part].counts.kept:
            raise HycamError(
                f"{name}: no row is left in the {part} part, all {len(rows)} are too long. "
                f'Raise max_length ({recipe.max_length}), or set overlong to "shorten" where it is not.'
            )
    return encoded


def _encode_first(
    rows: datasets.Dataset, limit: int, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase
) -> Encoded:
    """The first ``limit`` rows that fit, in the order of seed and identity, so that fewer are always among more.

    The rows are tried in that order until there are enough; the counts are of those that were tried.
    """
    identities = rows["row"]
    order = sorted(range(len(rows)), key=lambda position: order_key(recipe.seed, identities[position]))
    pieces: list[Encoded] = []
    tried = kept = 0
    while (tried < len(order) and kept < limit) or not pieces:
        chosen = order[tried : tried + limit - kept]
        pieces.append(encode(rows.select(chosen), tokenizer, recipe.prompt, recipe.max_length, recipe.overlong))
        tried += len(chosen)
        kept += pieces[-1].counts.kept
    together = datasets.concatenate_datasets([piece.dataset for piece in pieces])
    place = {identity: position for position, identity in enumerate(identities)}
    in_source_order = sorted(range(len(together)), key=[place[row] for row in together["row"]].__getitem__)
    counts = Counts(*(sum(column) for column in zip(*(astuple(piece.counts) for piece in pieces), strict=True)))
    return Encoded(together.select(in_source_order), counts)


def _describe(part: str, counts: Counts) -> str:
    special = [f"{n:,} {what}" for n, what in ((counts.shortened, "shortened"), (counts.dropped, "dropped")) if n]
    tail = f", {', '.join(special)} as too long" if special else ""
    return f"{part} {counts.kept:,} rows of {counts.tokens:,} tokens ({counts.response_tokens:,} trained){tail}"
