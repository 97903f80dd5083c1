"""From a recipe to the token ids of every task's three parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow
from transformers import PreTrainedTokenizerBase

from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.encode import Form, encode, encode_on_disk
from hycam.data.encoded import BadRows, Counts, Encoded, lengths, numbers
from hycam.data.partition import Rows, column, partition
from hycam.data.prompts import check_prompt
from hycam.data.recipe import PARTS, DataRecipe
from hycam.data.splits import in_order
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

_FEW = 2000  # rows of a part; so many are sooner tokenised anew than all rows of the task once

Progress = Callable[[str, int, int], None]
"""Called with what is being done, rows done and rows in all."""


@dataclass(frozen=True)
class Prepared:
    """Each part is a dataset per task, in the recipe's order of tasks, with the columns that ``Encoded`` describes.

    ``counts[part][task]`` says what became of the rows. ``fingerprint`` is a SHA-256 over row identities and token ids
    of all parts: two runs with the same one saw the same data. ``thinks`` says whether most of the trained responses
    begin with a thought: a chat template that can do both then asks for one.
    """

    train: dict[str, datasets.Dataset]
    validation: dict[str, datasets.Dataset]
    test: dict[str, datasets.Dataset]
    counts: dict[str, dict[str, Counts]]
    fingerprint: str
    thinks: bool


def prepare(recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Prepared:
    """Loads, splits and tokenises every task of the recipe, and logs one line for each.

    A part of which all rows are wanted is tokenised once for all folds, parts and runs, and kept in the cache. Nothing
    that grows with the data is held in memory but numbers: some tens of bytes a row.

    Raises:
        HycamError: no task, an unknown one or two of one name; data that cannot be had, read or split; a part that has
            no row left.
    """
    check_prompt(recipe.prompt, tokenizer)
    parts: dict[str, dict[str, Encoded]] = {part: {} for part in PARTS}
    for name, chosen in chosen_tasks(recipe).items():
        for part, encoded in _encode_parts(chosen, recipe, tokenizer, progress).items():
            parts[part][name] = encoded
        _log.info("%s: %s", name, "; ".join(_describe(part, parts[part][name].counts) for part in PARTS))
    rows = {part: {name: encoded.dataset for name, encoded in tasks.items()} for part, tasks in parts.items()}
    counts = {part: {name: encoded.counts for name, encoded in tasks.items()} for part, tasks in parts.items()}
    thoughts = sum(int(numbers(one.whole, "thinks")[one.places].sum()) for one in parts["train"].values())
    thinks = 2 * thoughts > sum(one.kept for one in counts["train"].values())
    return Prepared(**rows, counts=counts, fingerprint=fingerprint(parts), thinks=thinks)


def fingerprint(parts: Mapping[str, Mapping[str, Encoded]]) -> str:
    """SHA-256 (hexadecimal) of the parts: their names, the tasks, each row's identity, prompt length and token ids."""
    digest = hashlib.sha256()
    for part, tasks in parts.items():
        for name, encoded in tasks.items():
            whole, places = encoded.whole, encoded.places
            digest.update(f"{part}\0{name}\0{len(places)}\0".encode())
            digest.update("\0".join(whole.data.column("row").take(places).to_pylist()).encode())
            digest.update(numbers(whole, "prompt_length")[places].astype("<i4").tobytes())
            digest.update(lengths(whole)[places].astype("<i4").tobytes())
            for ids in encoded.token_ids():
                digest.update(ids.astype("<i4", copy=False).data)
    return digest.hexdigest()


def form_of(chosen: Chosen, recipe: DataRecipe) -> Form:
    """How the rows of one task of a recipe become tokens."""
    return Form(recipe.prompt, recipe.max_length, recipe.overlong, chosen.entry.turns, recipe.skip_bad_rows)


def _encode_parts(
    chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None
) -> dict[str, Encoded]:
    divided = partition(chosen, recipe)
    limits = {"train": recipe.train_rows, "validation": recipe.validation_rows, "test": recipe.test_rows}
    whole: Encoded | None = None
    encoded = {}
    for part, limit in limits.items():
        rows: list[int] = getattr(divided.split, part)
        is_limited = limit is not None and limit < len(rows)
        order = np.asarray(rows)
        if is_limited:
            order = order[in_order(column(divided.part(part), "row"), recipe.seed)]
        if limit is not None and is_limited and limit <= _FEW:
            encoded[part] = _encode_first(divided.rows.dataset, order, limit, chosen, recipe, tokenizer)
        else:
            whole = whole or encode_all(chosen, divided.rows, recipe, tokenizer, progress)
            encoded[part] = whole.first(order, len(rows) if limit is None else limit)
        if not encoded[part].counts.kept:
            raise _nothing_left(chosen.name, part, encoded[part], recipe)
    sum((one.bad for one in encoded.values()), BadRows()).tell(chosen.name)
    return encoded


def _nothing_left(name: str, part: str, encoded: Encoded, recipe: DataRecipe) -> HycamError:
    counts = encoded.counts
    if not counts.dropped:
        return HycamError(
            f"{name}: no row is left in the {part} part, all are malformed; the first: {encoded.bad.first}"
        )
    others = f" and the other {counts.bad:,} malformed" if counts.bad else ""
    return HycamError(
        f"{name}: no row is left in the {part} part, all {counts.dropped} are too long{others}. "
        f'Raise max_length ({recipe.max_length}), or set overlong to "shorten" where it is not.'
    )


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


def _encode_first(
    dataset: datasets.Dataset,
    order: np.ndarray,
    limit: int,
    chosen: Chosen,
    recipe: DataRecipe,
    tokenizer: PreTrainedTokenizerBase,
) -> Encoded:
    """What ``encode_all(...).first(order, limit)`` gives, without tokenising more rows than it takes."""
    pieces: list[pyarrow.Table] = []
    tried = kept = 0
    bad = BadRows()
    while tried < len(order) and kept < limit:
        following = order[tried : tried + limit - kept]
        encoded = encode(dataset.select(following), tokenizer, form_of(chosen, recipe))
        piece = encoded.whole.data.table
        bad += BadRows(following[encoded.bad.numbers].tolist(), encoded.bad.first)
        # Of all rows of the task, as in the other parts, and not of those that were tokenised together.
        numbers_of_task = pyarrow.array(following[piece["index"].to_numpy()], pyarrow.int32())
        pieces.append(piece.set_column(piece.schema.get_field_index("index"), "index", numbers_of_task))
        tried += len(following)
        kept += len(piece)
    together = pyarrow.concat_tables(pieces).sort_by("index")
    return Encoded(datasets.Dataset(datasets.table.InMemoryTable(together)), np.arange(kept), tried, bad)


def _describe(part: str, counts: Counts) -> str:
    special = [f"{n:,} {what}" for n, what in ((counts.shortened, "shortened"), (counts.dropped, "dropped")) if n]
    tail = f", {', '.join(special)} as too long" if special else ""
    return f"{part} {counts.kept:,} rows of {counts.tokens:,} tokens ({counts.response_tokens:,} trained){tail}"
