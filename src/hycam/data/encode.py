"""The rows of a task as token ids and labels in Arrow, made once and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
from transformers import PreTrainedTokenizerBase

from hycam.data.cache import cached, read_arrow
from hycam.data.chat import end_token
from hycam.data.conversation import has_thought
from hycam.data.prompts import Form, check_prompt, passed_over, rendered
from hycam.data.tokens import PLAIN, tokenised
from hycam.errors import HycamError
from hycam.labelled import IGNORED

_log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Counts:
    """What became of the rows: ``rows`` = ``kept`` + ``dropped`` + ``bad``; ``shortened`` are among the kept.

    ``tokens`` is the length of all kept rows together, ``response_tokens`` those of them that carry the loss.
    """

    rows: int
    kept: int
    shortened: int
    dropped: int
    tokens: int
    response_tokens: int
    bad: int = 0


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows: those at ``places`` (ascending, ``[kept]``) of ``whole``, out of ``rows`` that were asked for.

    ``bad`` says what is wrong with those of them that were passed over, by their numbers. The columns are

    - ``index``: the number of the row among those that were given,
    - ``row``: where the row came from,
    - ``prompt``, ``response``: their whole texts, also where the tokens were shortened,
    - ``input_ids``: prompt, response, end token,
    - ``labels``: as long; -100 on what is not trained, the token itself elsewhere,
    - ``prompt_length``: ``input_ids[:prompt_length]`` is what generation of the last response starts from,
    - ``trained``: how many tokens carry the loss,
    - ``shortened``: whether tokens were taken out of the prompt,
    - ``thinks``: whether the last response of a chat begins with a thought.
    """

    whole: datasets.Dataset
    places: np.ndarray
    rows: int
    bad: dict[int, str] = field(default_factory=dict)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        return self.whole.select(self.places)

    @cached_property
    def counts(self) -> Counts:
        kept = len(self.places)
        return Counts(
            rows=self.rows,
            kept=kept,
            shortened=int(self.column("shortened").sum()),
            dropped=self.rows - kept - len(self.bad),
            tokens=int(self.lengths.sum()),
            response_tokens=int(self.column("trained").sum()),
            bad=len(self.bad),
        )

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: int64 ``[kept]``. The token ids themselves are not read."""
        counted = [chunk.value_lengths().to_numpy() for chunk in self.whole.data.column("input_ids").chunks]
        return np.concatenate([np.zeros(0, dtype=np.int64), *counted])[self.places]

    def column(self, name: str) -> np.ndarray:
        """A column of numbers or of true and false, ``[kept]``."""
        return self.whole.data.column(name).to_numpy()[self.places]

    def token_ids(self) -> Iterator[np.ndarray]:
        """The ids of all rows, one behind the other, int32 ``[n]`` at a time: a batch of what is on the disk."""
        is_wanted = np.zeros(len(self.whole), dtype=bool)
        is_wanted[self.places] = True
        begin = 0
        for chunk in self.whole.data.column("input_ids").chunks:
            wanted = np.repeat(is_wanted[begin : begin + len(chunk)], chunk.value_lengths().to_numpy())
            yield chunk.flatten().to_numpy()[wanted]
            begin += len(chunk)

    def first(self, order: np.ndarray, limit: int) -> Encoded:
        """Of the rows with the numbers ``order``, the first ``limit`` that are here, so that fewer are among more.

        ``rows`` is then how many were tried in that order until there were enough.
        """
        here = self.column("index")
        found = np.isin(order, here, assume_unique=True)
        tried = order if found.sum() < limit else order[: np.flatnonzero(found)[limit - 1] + 1]
        places = self.places[np.isin(here, tried, assume_unique=True)]
        bad = {number: self.bad[number] for number in np.intersect1d([*self.bad], tried).astype(int).tolist()}
        return Encoded(self.whole, places, len(tried), bad)


def encode(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form = Form(),  # noqa: B008  # it is frozen
    progress: Callable[[int], None] | None = None,
    numbers: np.ndarray | None = None,
) -> Encoded:
    """Tokenises the rows of ``load_task``, in memory.

    Args:
        dataset: has the columns of ``load_task``.
        tokenizer: its special tokens are put before the prompt (in ``"chat"`` the template has them), its end token (in
            a chat, what the template ends an answer with) after each response.
        form: how.
        progress: called with the number of rows that were tokenised since the last call.
        numbers: of the rows that are wanted, ascending; by default all.

    Raises:
        HycamError: the tokenizer has no end token, or no chat template where the prompt needs one; or a row cannot be
            rendered.
    """
    if numbers is not None:
        dataset = dataset.select(numbers)
    batches: list[pyarrow.RecordBatch] = []
    bad = _encode(dataset, tokenizer, form, batches.append, progress, numbers)
    table = pyarrow.Table.from_batches(batches, _SCHEMA)
    whole = datasets.Dataset(datasets.table.InMemoryTable(table))
    return Encoded(whole, np.arange(len(whole)), len(dataset), bad)


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
        with pyarrow.ipc.new_stream(str(folder / "tokens.arrow"), _SCHEMA) as writer:
            bad = _encode(dataset, tokenizer, form, writer.write, progress)
        (folder / "bad.json").write_text(json.dumps([*bad.items()]))

    key = {"source": source, "tokenizer": tokenizer_hash(tokenizer), "form": asdict(form)}
    folder = cached(name, key, build)
    whole = read_arrow(folder / "tokens.arrow")
    try:
        bad = dict(json.loads((folder / "bad.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise HycamError(f"{folder} in the cache is damaged ({error}): delete it and try again.") from error
    return Encoded(whole, np.arange(len(whole)), len(dataset), bad)


def warn_of_bad_rows(name: str, bad: dict[int, str]) -> None:
    """Tells of rows that were passed over, as ``load_task`` does of those that are malformed in their file."""
    if bad:
        _log.warning("%s: %s malformed rows passed over; the first: %s", name, f"{len(bad):,}", bad[min(bad)])


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


def _encode(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    write: Callable[[pyarrow.RecordBatch], None],
    progress: Callable[[int], None] | None,
    numbers: np.ndarray | None = None,
) -> dict[int, str]:
    """Writes the rows batch by batch and says what is wrong with those that are passed over, by their numbers."""
    check_prompt(form.prompt, tokenizer)
    if tokenizer.eos_token_id is None:
        raise HycamError(
            f"{tokenizer.name_or_path or 'The tokenizer'} has no end token (eos_token), without which a model cannot "
            "learn where a response ends. Set one in its tokenizer_config.json."
        )
    bad: dict[int, str] = {}
    done = 0
    for table in chain.from_iterable(map(_portions, dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))):
        here = range(done, done + len(table)) if numbers is None else numbers[done : done + len(table)].tolist()
        batch, refused = _encode_batch(dict(zip(here, table.to_pylist(), strict=True)), tokenizer, form)
        write(batch)
        bad |= refused
        done += len(table)
        if progress is not None:
            progress(len(table))
    return bad


def _portions(table: pyarrow.Table) -> Iterator[pyarrow.Table]:
    """The rows in turn, as many at a time as have no more text than is good to hold in memory; one at least."""
    if len(table) == 1 or table.nbytes <= _TEXT_AT_ONCE:
        yield table
    else:
        half = len(table) // 2
        yield from _portions(table.slice(0, half))
        yield from _portions(table.slice(half))


def _encode_batch(
    rows: dict[int, dict[str, Any]], tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[pyarrow.RecordBatch, dict[int, str]]:
    """Rows by their numbers as a batch of Arrow, and what is wrong with those that are passed over."""
    examples, bad = rendered(rows.items(), tokenizer, form)
    end = end_token(tokenizer, form.prompt)
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for (number, turns), tokens in zip(examples.items(), tokenised([*examples.values()], tokenizer, form), strict=True):
        row = rows[number]
        if isinstance(tokens, HycamError):
            bad[number] = passed_over(row, tokens, form)
        elif (fitted := tokens.fitted(form)) is not None:
            earlier = "".join(f"{turn.before}{turn.answer}{end}" for turn in turns[:-1])
            columns["index"].append(number)
            columns["row"].append(row["row"])
            columns["prompt"].append(earlier + turns[-1].before)
            columns["response"].append(turns[-1].answer if row.get("messages") else row["response"])
            columns["input_ids"].append(fitted.ids)
            columns["labels"].append(fitted.labels)
            columns["prompt_length"].append(fitted.prompt_length)
            columns["trained"].append(int((fitted.labels != IGNORED).sum()))
            columns["shortened"].append(fitted is not tokens)
            columns["thinks"].append(form.prompt == "chat" and has_thought(row))
    arrays = [pyarrow.array(columns[column.name], column.type) for column in _SCHEMA]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=_SCHEMA), bad
