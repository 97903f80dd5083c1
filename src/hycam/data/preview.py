"""Rows as the model sees them: token by token, with what is trained marked by a plus sign and by colour."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from hycam.data.encode import IGNORED, Counts, Overlong, encode
from hycam.data.load import load_task
from hycam.data.prompts import PromptStyle
from hycam.data.tasks import task

_LEGEND = '"+" and green: trained. "|" separates tokens, "↵" is a line end, "→" a tab.'
_WORD_START = "▁"  # how SentencePiece writes the blank before a word, which decoding one token alone loses


def preview(
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
    rows: int = 3,
    style: PromptStyle = "alpaca",
    max_length: int = 1200,
    overlong: Overlong = "shorten",
) -> None:
    """Prints the first ``rows`` rows of a task, and what becomes of all its rows under these settings.

    Raises:
        HycamError: as ``load_task`` and ``encode`` do.
    """
    encoded = encode(load_task(name_or_path), tokenizer, style, max_length, overlong)
    for row in encoded.dataset.select(range(min(rows, encoded.counts.kept))):
        trained = len(row["input_ids"]) - row["prompt_length"]
        note = ", shortened in the middle of the prompt" if row["shortened"] else ""
        title = f"{row['row']}: {row['prompt_length']} tokens of prompt, {trained} trained{note}"
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(_marked(row["input_ids"], row["labels"], tokenizer, console.width), soft_wrap=True)
        console.print()
    console.print(_LEGEND, highlight=False, soft_wrap=True)
    console.print(_summary(task(name_or_path).name, encoded.counts), highlight=False, soft_wrap=True)


def _summary(name: str, counts: Counts) -> str:
    mean = counts.tokens / counts.kept if counts.kept else 0
    return (
        f"{name}: {counts.rows:,} rows, {counts.kept:,} kept, of them {counts.shortened:,} shortened; "
        f"{counts.dropped:,} dropped as too long. {counts.tokens:,} tokens ({mean:.0f} a row), "
        f"{counts.response_tokens:,} of them trained."
    )


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
