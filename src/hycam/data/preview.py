"""Rows as the model sees them: token by token, with trained tokens marked by a plus sign and by colour."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import datasets
import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from hycam.console import Reporter
from hycam.data.chosen import Chosen
from hycam.data.encode import Encoded, warn_of_bad_rows
from hycam.data.partition import Rows, rows_of
from hycam.data.prepare import encode_all
from hycam.data.prompts import check_prompt
from hycam.data.recipe import DataRecipe
from hycam.labelled import IGNORED

_BARS = 10
_LONGEST_BAR = 40  # characters
_BEFORE_BAR = 28  # characters before a bar
_LEGEND = '"+" and green: trained. "|" separates tokens, "↵" is a line end, "→" a tab.'
_WORD_START = "▁"  # SentencePiece's blank before a word, which is lost when a single token is decoded


def preview(
    chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, console: Console, rows: int = 3
) -> None:
    """Prints the first ``rows`` rows of a task as tokens, and a summary of all rows under a recipe's settings.

    Progress goes to standard error.

    Raises:
        HycamError: as for ``load_task`` and ``encode``.
    """
    check_prompt(recipe.prompt, tokenizer)
    loaded = rows_of(chosen, recipe)
    with Reporter() as reporter:
        encoded = encode_all(chosen, loaded, recipe, tokenizer, reporter.update)
    warn_of_bad_rows(chosen.name, encoded.bad)
    for row in encoded.dataset.select(range(min(rows, encoded.counts.kept))):
        note = ", shortened in the middle of the prompt" if row["shortened"] else ""
        title = f"{row['row']}: {len(row['input_ids']):,} tokens, {row['trained']:,} of them trained{note}"
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(_marked(row["input_ids"], row["labels"], tokenizer, console.width), soft_wrap=True)
        console.print()
    console.print(_LEGEND, highlight=False, soft_wrap=True)
    for line in (*_summary(chosen.name, encoded, loaded), *_histogram(encoded.lengths, console.width)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _summary(name: str, encoded: Encoded, loaded: Rows) -> Iterator[str]:
    counts = encoded.counts
    mean = counts.tokens / counts.kept if counts.kept else 0
    share = counts.response_tokens / counts.tokens if counts.tokens else 0
    yield (
        f"{name}: {counts.rows:,} rows, {counts.kept:,} kept, of them {counts.shortened:,} shortened; "
        f"{counts.dropped:,} dropped as too long{f', {counts.bad:,} skipped as malformed' if counts.bad else ''}."
    )
    yield (f"{counts.tokens:,} tokens ({mean:.0f} a row), {counts.response_tokens:,} of them trained ({share:.1%}).")
    yield (
        f"{loaded.empty:,} more rows are skipped because the response or the question is empty or no answer is "
        f"trained; of the others, {_repeats(loaded.dataset):,} repeat an earlier one."
    )


def _repeats(rows: datasets.Dataset) -> int:
    """How many rows have the texts of an earlier row."""
    seen = set()
    for table in rows.remove_columns(["row", "group", "part"]).with_format("arrow").iter(batch_size=1000):
        for row in table.to_pylist():
            seen.add(hashlib.sha256(json.dumps(row).encode()).digest())
    return len(rows) - len(seen)


def _histogram(tokens: np.ndarray, width: int) -> Iterator[str]:
    """The number of rows in each of ten equal ranges of length, with a bar."""
    if len(tokens) == 0:
        return
    yield "Tokens in a row:"
    size = -(-(int(tokens.max()) + 1) // _BARS)
    counts = np.bincount(tokens // size)
    longest = max(1, min(_LONGEST_BAR, width - _BEFORE_BAR))
    for number, count in enumerate(counts.tolist()):
        bar = "#" * -(-count * longest // int(counts.max()))
        yield f"{number * size:>7,} to {(number + 1) * size - 1:>6,} {count:>9,} {bar}".rstrip()


def _marked(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase, width: int) -> Text:
    """The tokens in lines, which begin with "+ " if their tokens are trained and two blanks if not."""
    text = Text()
    column = width  # as if the line were full, so that the first token begins one
    before: bool | None = None
    for piece, label in zip(_pieces(ids, tokenizer), labels, strict=True):
        trained = label != IGNORED
        size = cell_len(piece) + 1
        if trained != before or column + size > width:
            text.append("\n" if text else "")
            text.append("+ " if trained else "  ", style="green")
            column = 2
        text.append(piece, style="green" if trained else "default")
        text.append("|", style="dim")
        column = width if "↵" in piece else column + size
        before = trained
    return text


def _pieces(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The text of each token in visible characters."""
    decoded = tokenizer.batch_decode([[one] for one in ids])
    for text, token in zip(decoded, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if "\ufffd" in text:  # part of a character: show its bytes as the vocabulary writes them
            text = token
        elif token.startswith(_WORD_START) and not text.startswith(" "):
            text = " " + text
        yield "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    """The character, or an escape if it is invisible or would control the terminal."""
    special = {"\n": "↵", "\t": "→"}.get(character)
    return special or (character if character.isprintable() else f"\\u{ord(character):04x}")
