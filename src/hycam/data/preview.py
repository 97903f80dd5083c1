"""Rows as the model sees them: token by token, with what is trained marked by a plus sign and by colour."""

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
_BEFORE_BAR = 28  # what stands before a bar on its line
_LEGEND = '"+" and green: trained. "|" separates tokens, "↵" is a line end, "→" a tab.'
_WORD_START = "▁"  # how SentencePiece writes the blank before a word, which decoding one token alone loses


def preview(
    chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, console: Console, rows: int = 3
) -> None:
    """Prints the first ``rows`` rows of a task as tokens, and what becomes of all its rows under a recipe's settings.

    While they are tokenised, standard error says how far that has come.

    Raises:
        HycamError: as ``load_task`` and ``encode`` do.
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
        f"{counts.dropped:,} dropped as too long{f', {counts.bad:,} passed over as malformed' if counts.bad else ''}."
    )
    yield (f"{counts.tokens:,} tokens ({mean:.0f} a row), {counts.response_tokens:,} of them trained ({share:.1%}).")
    yield (
        f"{loaded.empty:,} more rows are left out, because the response or the question is empty or no answer is "
        f"trained; of the others {_repeats(loaded.dataset):,} repeat another one."
    )


def _repeats(rows: datasets.Dataset) -> int:
    """How many rows have the texts of a row before them."""
    seen = set()
    for table in rows.remove_columns(["row", "group", "part"]).with_format("arrow").iter(batch_size=1000):
        for row in table.to_pylist():
            seen.add(hashlib.sha256(json.dumps(row).encode()).digest())
    return len(rows) - len(seen)


def _histogram(tokens: np.ndarray, width: int) -> Iterator[str]:
    """How many rows have which length, a bar for each of ten ranges of the same width."""
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
    """The tokens in lines, each line with "+ " before it where its tokens are trained and two blanks where not."""
    text = Text()
    column = width  # as if a line were full, so that the first token begins one
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
    """What each token stands for, in visible characters."""
    decoded = tokenizer.batch_decode([[one] for one in ids])
    for text, token in zip(decoded, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if "\ufffd" in text:  # part of a character: its bytes, as the vocabulary writes them, say more
            text = token
        elif token.startswith(_WORD_START) and not text.startswith(" "):
            text = " " + text
        yield "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    """The character itself, or how it is written where it would not be seen or would steer the terminal."""
    special = {"\n": "↵", "\t": "→"}.get(character)
    return special or (character if character.isprintable() else f"\\u{ord(character):04x}")
