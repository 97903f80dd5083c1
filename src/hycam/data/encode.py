"""Examples to token ids and labels.

Prompt and response are tokenised apart, so that no token spans the boundary and generation starts from exactly the
prompt that was trained. The loss falls on the response and its end token only (Eq. 13); labels are masked by position,
because in many tokenizers padding is the end token too.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import numpy as np
import pyarrow
from transformers import PreTrainedTokenizerBase

from hycam.data.cache import ArrowWriter, cached, read_arrow
from hycam.data.encoded import Encoded
from hycam.data.prompts import Turn, check_prompt, end_token, render_turns
from hycam.data.recipe import Overlong, Turns
from hycam.errors import HycamError
from hycam.labelled import IGNORED

LEAST_PROMPT = 16  # a prompt shortened to fewer tokens than this would no longer ask anything

# verbose: what is too long is dealt with here, the tokenizer's own warning about it would mislead.
_PLAIN: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
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
    """

    prompt: str = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    turns: Turns = "all"


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
        HycamError: the tokenizer has no end token, or no chat template where the prompt needs one.
    """
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, _SCHEMA) as writer:
        for batch in _batches(dataset, tokenizer, form or Form(), progress):
            writer.write_batch(batch)
    encoded = datasets.Dataset.from_buffer(sink.getvalue())
    return Encoded(encoded, np.arange(len(encoded)), len(dataset))


def encode_on_disk(
    name: str,
    source: list[Any],
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    progress: Callable[[int], None] | None = None,
) -> datasets.Dataset:
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
        with ArrowWriter(folder / "tokens.arrow", _SCHEMA) as writer:
            for batch in _batches(dataset, tokenizer, form, progress):
                writer.write(batch)

    key = {"source": source, "tokenizer": tokenizer_hash(tokenizer), "form": asdict(form)}
    return read_arrow(cached(name, key, build) / "tokens.arrow")


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hexadecimal) of everything that ``save_pretrained`` writes of a tokenizer."""
    tokenizer("", **_PLAIN)  # which puts away the padding and truncation of an earlier call: they would be written too
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.name.encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    """Token ids of rendered prompts, exactly as they are trained on and generated from.

    The tokenizer's own special tokens go before a prompt (a chat prompt has them in its text); none goes behind it,
    where an end token would end the prompt.
    """
    if style == "chat":
        return tokenizer(prompts, add_special_tokens=False, **_PLAIN)["input_ids"]
    trailing = _trailing_special_tokens(tokenizer)
    return [ids[: len(ids) - trailing] for ids in tokenizer(prompts, **_PLAIN)["input_ids"]]


def _batches(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    progress: Callable[[int], None] | None,
) -> Iterator[pyarrow.RecordBatch]:
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
) -> pyarrow.RecordBatch:
    examples = [_rendered(row, tokenizer, form) for row in rows]
    pieces = [[_cut(piece, tokenizer, form) for piece in chain.from_iterable(turns)] for turns in examples]
    begun = encode_prompts([texts[0] for texts in pieces], tokenizer, form.prompt)
    later = [text for texts in pieces for text in texts[1:]]  # an answer, and for each further turn two pieces more
    others = iter(tokenizer(later, add_special_tokens=False, **_PLAIN)["input_ids"])
    end = end_token(tokenizer, form.prompt)
    end_id = cast(int, tokenizer.convert_tokens_to_ids(end))
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    ids: list[list[int]] = []
    runs: list[_Run] = []
    for number, (row, turns, before) in enumerate(zip(rows, examples, begun, strict=True)):
        encoded = _row(before, [next(others) for _ in range(2 * len(turns) - 1)], end_id, form)
        if encoded is None:
            continue
        ids.append(encoded.ids)
        runs += encoded.runs
        earlier = "".join(f"{turn.before}{turn.answer}{end}" for turn in turns[:-1])
        columns["index"].append(first + number)
        columns["row"].append(row["row"])
        columns["prompt"].append(earlier + turns[-1].before)
        columns["response"].append(row["response"])
        columns["prompt_length"].append(encoded.prompt_length)
        columns["trained"].append(sum(size for size, is_trained in encoded.runs if is_trained))
        columns["shortened"].append(encoded.shortened)
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
    return pyarrow.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _rendered(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, form: Form) -> list[Turn]:
    try:
        return render_turns(row, form.prompt, tokenizer, form.turns)
    except HycamError as error:
        raise HycamError(f"{row['row']}: {error}") from error


_Run = tuple[int, bool]
"""So many tokens in a row, and whether they carry the loss."""


class _Row(NamedTuple):
    ids: list[int]
    runs: list[_Run]
    prompt_length: int
    shortened: bool


def _row(before: list[int], others: list[list[int]], end_id: int, form: Form) -> _Row | None:
    """One row out of its pieces (an answer, and the text before and the answer of each further turn), or None."""
    runs = [(len(before), False)]
    for answer, following in zip(others[:-1:2], others[1::2], strict=True):
        before = [*before, *answer, end_id, *following]
        runs += [(len(answer) + 1, form.turns == "all"), (len(following), False)]
    response = [*others[-1], end_id]
    room = form.max_length - len(response)
    shortened = len(before) > room
    if shortened:
        if form.overlong == "drop" or room < LEAST_PROMPT:
            return None
        head, tail = (room + 1) // 2, room // 2
        runs = _between(runs, 0, head) + _between(runs, len(before) - tail, len(before))
        before = before[:head] + before[len(before) - tail :]
    return _Row(before + response, [*runs, (len(response), True)], len(before), shortened)


def _between(runs: list[_Run], start: int, stop: int) -> list[_Run]:
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
        if min(map(len, tokenizer(ends, add_special_tokens=False, **_PLAIN)["input_ids"])) > form.max_length:
            return "".join(ends)
        most *= 4  # long blanks, or words that the tokenizer does not know, may be single tokens
    return text


def _trailing_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts behind a text: an end token there would end the prompt."""
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return mask[::-1].index(0)
