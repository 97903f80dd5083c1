"""Examples to token ids and labels.

No token spans the boundary between prompt and response, so generation starts from exactly the prompt that was trained
(:mod:`hycam.data.tokens`). The loss falls on the response and its end token only (Eq. 13); labels are masked by
position, because in many tokenizers padding is the end token too.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
from transformers import PreTrainedTokenizerBase

from hycam.data.cache import ArrowWriter, cached, read_arrow
from hycam.data.chat_template import end_token
from hycam.data.conversation import has_thought
from hycam.data.encoded import BadRows, Encoded
from hycam.data.prompts import Turn, check_prompt, render_turns
from hycam.data.recipe import Overlong, Turns
from hycam.data.tokens import PLAIN, Run, Tokens, apart, encode_texts, whole
from hycam.errors import HycamError
from hycam.labelled import IGNORED

LEAST_PROMPT = 16  # a prompt shortened to fewer tokens than this would no longer ask anything

_TOKENS = pyarrow.list_(pyarrow.int32())
_SCHEMA = pyarrow.schema(
    [
        ("index", pyarrow.int32()),
        ("row", pyarrow.string()),
        ("prompt", pyarrow.string()),
        ("response", pyarrow.string()),
        ("input_ids", _TOKENS),
        ("labels", _TOKENS),
        ("prompt_length", pyarrow.int32()),
        ("trained", pyarrow.int32()),
        ("shortened", pyarrow.bool_()),
        ("thinks", pyarrow.bool_()),
    ]
)
_ROWS_AT_ONCE = 1000
_TEXT_AT_ONCE = 64 << 20  # bytes; a few giant rows are worked on apart
_PLENTY = 32  # characters a token; of a text with far more than so many for each token that fits, the ends are enough


@dataclass(frozen=True)
class Form:
    """How an example becomes tokens.

    Args:
        prompt: see :func:`hycam.data.prompts.render_turns`.
        max_length: most tokens of prompt, response and end token together.
        overlong: what becomes of a row that is longer. ``"shorten"`` takes the excess out of the middle of the prompt
            (of all that stands before the last response), where neither the instruction's beginning nor the marker
            before the response is lost; where that would leave fewer than 16 tokens of prompt, the row is dropped.
            ``"drop"`` drops it.
        turns: which answers of a conversation carry the loss.
        skip_bad_rows: a row that cannot be rendered or cut is passed over and counted, instead of an error.
    """

    prompt: str = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    turns: Turns = "all"
    skip_bad_rows: bool = False


def encode(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form | None = None,
    progress: Callable[[int], None] | None = None,
) -> Encoded:
    """Tokenises the rows of ``load_task``, in memory.

    Args:
        dataset: has the columns of ``load_task``.
        tokenizer: its special tokens are put before the prompt (in ``"chat"`` the template has them), its end token (in
            a chat, what the template ends an answer with) after each response.
        form: how.
        progress: called with the number of rows that were tokenised since the last call.

    Raises:
        HycamError: the tokenizer has no end token, or no chat template where the prompt needs one; or a row cannot be
            rendered.
    """
    sink = pyarrow.BufferOutputStream()
    bad = BadRows()
    with pyarrow.ipc.new_stream(sink, _SCHEMA) as writer:
        for batch, passed_over in _batches(dataset, tokenizer, form or Form(), progress):
            writer.write_batch(batch)
            bad += passed_over
    encoded = datasets.Dataset.from_buffer(sink.getvalue())
    return Encoded(encoded, np.arange(len(encoded)), len(dataset), bad)


def encode_on_disk(
    name: str,
    source: list[Any],
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    progress: Callable[[int], None] | None = None,
) -> Encoded:
    """As :func:`encode`, kept in the cache and mapped into memory.

    Args:
        name: begins the name of the entry.
        source: what ``dataset`` is, in a form that changes when it does.
        dataset: see :func:`encode`, as are the others.
        tokenizer: a change of it makes another entry.
        form: the same.
        progress: called while it is made, and not where it is there already.
    """

    def build(folder: Path) -> None:
        bad = BadRows()
        with ArrowWriter(folder / "tokens.arrow", _SCHEMA) as writer:
            for batch, passed_over in _batches(dataset, tokenizer, form, progress):
                writer.write(batch)
                bad += passed_over
        (folder / "bad.json").write_text(json.dumps(asdict(bad)))

    key = {"source": source, "tokenizer": tokenizer_hash(tokenizer), "form": asdict(form)}
    folder = cached(name, key, build)
    whole = read_arrow(folder / "tokens.arrow")
    try:
        bad = BadRows(**json.loads((folder / "bad.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise HycamError(f"{folder} in the cache is damaged ({error}): delete it and try again.") from error
    return Encoded(whole, np.arange(len(whole)), len(dataset), bad)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hexadecimal) of everything that ``save_pretrained`` writes of a tokenizer."""
    tokenizer("", **PLAIN)  # which puts away the padding and truncation of an earlier call: they would be written too
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.name.encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _batches(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[pyarrow.RecordBatch, BadRows]]:
    check_prompt(form.prompt, tokenizer)
    if tokenizer.eos_token_id is None:
        raise HycamError(
            f"{tokenizer.name_or_path or 'The tokenizer'} has no end token (eos_token), without which a model cannot "
            "learn where a response ends. Set one in its tokenizer_config.json."
        )
    done = 0
    for table in chain.from_iterable(map(_portions, dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))):
        rows = table.to_pylist()
        yield _encode_batch(rows, done, tokenizer, form)
        done += len(rows)
        if progress is not None:
            progress(len(rows))


def _portions(table: pyarrow.Table) -> Iterator[pyarrow.Table]:
    """The rows in turn, as many at a time as have no more text than is good to hold in memory; one at least."""
    if len(table) == 1 or table.nbytes <= _TEXT_AT_ONCE:
        yield table
    else:
        half = len(table) // 2
        yield from _portions(table.slice(0, half))
        yield from _portions(table.slice(half))


def _encode_batch(
    rows: list[dict[str, Any]], first: int, tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[pyarrow.RecordBatch, BadRows]:
    is_chat = form.prompt == "chat"
    examples, bad = rendered(rows, first, tokenizer, form)
    pieces = [
        [Turn(*(_cut(piece, tokenizer, form) for piece in turn)) for turn in turns] for turns in examples.values()
    ]
    tokenised: list[Tokens | HycamError] = []
    if pieces:
        tokenised = (
            whole(pieces, tokenizer, form.turns) if is_chat else apart(pieces, tokenizer, form.prompt, form.turns)
        )
    end = end_token(tokenizer, form.prompt)
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    ids: list[list[int]] = []
    runs: list[Run] = []
    for (number, turns), tokens in zip(examples.items(), tokenised, strict=True):
        row = rows[number - first]
        if isinstance(tokens, HycamError):
            bad += _passed_over(row, number, tokens, form)
            continue
        fitted = _fitted(tokens, form)
        if fitted is None:
            continue
        ids.append(fitted.ids)
        runs += fitted.runs
        earlier = "".join(f"{turn.before}{turn.answer}{end}" for turn in turns[:-1])
        columns["index"].append(number)
        columns["row"].append(row["row"])
        columns["prompt"].append(earlier + turns[-1].before)
        columns["response"].append(turns[-1].answer if row.get("messages") else row["response"])
        columns["prompt_length"].append(fitted.prompt_length)
        columns["trained"].append(sum(size for size, is_trained in fitted.runs if is_trained))
        columns["shortened"].append(len(fitted.ids) < len(tokens.ids))
        columns["thinks"].append(is_chat and has_thought(row))
    # The tokens go to Arrow by way of numpy: a Python list of lists would be looked at token by token.
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(map(len, ids)))
    is_trained = np.repeat(np.array([trained for _, trained in runs], bool), np.array([size for size, _ in runs], int))
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64).astype(np.int32)
    lists = {"input_ids": flat, "labels": np.where(is_trained, flat, np.int32(IGNORED))}
    arrays = [
        pyarrow.ListArray.from_arrays(offsets, lists[field.name])
        if field.name in lists
        else pyarrow.array(columns[field.name], field.type)
        for field in _SCHEMA
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=_SCHEMA), bad


def rendered(
    rows: list[dict[str, Any]], first: int, tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[dict[int, list[Turn]], BadRows]:
    """The turns of each of ``rows`` by its number, of which that of the first is ``first``; and what was passed over.

    Raises:
        HycamError: a row cannot be rendered, and ``form`` does not say to skip it; the message has its identity.
    """
    found, bad = {}, BadRows()
    for number, row in enumerate(rows, first):
        try:
            found[number] = render_turns(row, form.prompt, tokenizer, form.turns)
        except HycamError as error:
            bad += _passed_over(row, number, error, form)
    return found, bad


def _passed_over(row: dict[str, Any], number: int, error: HycamError, form: Form) -> BadRows:
    told = f"{row['row']}: {error}"
    if not form.skip_bad_rows:
        raise HycamError(told) from error
    return BadRows([number], told)


def _fitted(tokens: Tokens, form: Form) -> Tokens | None:
    """The tokens of a row that fits, which are without the middle of the prompt where they are too many; or None."""
    ids, runs, begin = tokens
    room = form.max_length - (len(ids) - begin)
    if begin <= room:
        return tokens
    if form.overlong == "drop" or room < LEAST_PROMPT:
        return None
    head, tail = (room + 1) // 2, begin - room // 2
    return Tokens(ids[:head] + ids[tail:], _between(runs, 0, head) + _between(runs, tail, len(ids)), room)


def _between(runs: list[Run], start: int, stop: int) -> list[Run]:
    """The runs of the tokens from ``start`` to ``stop``."""
    found, end = [], 0
    for size, is_trained in runs:
        begin, end = end, end + size
        if min(end, stop) > max(begin, start):
            found.append((min(end, stop) - max(begin, start), is_trained))
    return found


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, form: Form) -> str:
    """``text`` without its middle, where it has many times the characters of any row that fits.

    Either end that is kept has more tokens than a row may have, so that the row comes out as it would have: shortened
    within its prompt to the same tokens, or dropped. A row of 100 MB would take gigabytes else.
    """
    most = form.max_length * _PLENTY
    while len(text) > 2 * most:
        ends = [text[:most], text[-most:]]
        if min(map(len, encode_texts(ends, tokenizer, "chat"))) > form.max_length:
            return "".join(ends)
        most *= 4  # long blanks, or words that the tokenizer does not know, may be single tokens
    return text
