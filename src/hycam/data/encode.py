"""The rows of a task as token ids and labels in Arrow, built once and memory-mapped."""

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
from hycam.data.prompts import Form, check_prompt, rendered, skipped
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
_TEXT_AT_ONCE = 64 << 20  # bytes; fewer rows at a time if they are giant


@dataclass(frozen=True)
class Counts:
    """What happened to the rows: ``rows`` = ``kept`` + ``dropped`` + ``bad``; ``shortened`` rows are among the kept.

    ``tokens`` is the total length of the kept rows, ``response_tokens`` the number of trained tokens in them.
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
    """Tokenised rows: those at ``places`` (ascending, ``[kept]``) of ``whole``, out of ``rows`` rows.

    ``bad`` has the errors of skipped rows by their numbers. The columns are

    - ``index``: the number of the row in the dataset that was encoded,
    - ``row``: where the row came from,
    - ``prompt``, ``response``: the whole texts, even if the tokens were shortened,
    - ``input_ids``: prompt, response, end token,
    - ``labels``: of the same length; the token where it is trained, else -100,
    - ``prompt_length``: ``input_ids[:prompt_length]`` is the prompt from which the last response is generated,
    - ``trained``: how many tokens are trained,
    - ``shortened``: whether tokens were removed from the prompt,
    - ``thinks``: whether the last response of a chat contains a thought.
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
        """Tokens of each row: int64 ``[kept]``, without reading the token ids."""
        counted = [chunk.value_lengths().to_numpy() for chunk in self.whole.data.column("input_ids").chunks]
        return np.concatenate([np.zeros(0, dtype=np.int64), *counted])[self.places]

    def column(self, name: str) -> np.ndarray:
        """A column of numbers or booleans, ``[kept]``."""
        return self.whole.data.column(name).to_numpy()[self.places]

    def token_ids(self) -> Iterator[np.ndarray]:
        """The ids of all rows in order, int32 ``[n]``, one batch on disk at a time."""
        is_wanted = np.zeros(len(self.whole), dtype=bool)
        is_wanted[self.places] = True
        begin = 0
        for chunk in self.whole.data.column("input_ids").chunks:
            wanted = np.repeat(is_wanted[begin : begin + len(chunk)], chunk.value_lengths().to_numpy())
            yield chunk.flatten().to_numpy()[wanted]
            begin += len(chunk)

    def first(self, order: np.ndarray, limit: int) -> Encoded:
        """The first ``limit`` of the rows numbered ``order`` that were kept; fewer are always among more.

        ``rows`` then counts the rows in that order up to the last one taken.
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
        tokenizer: its special tokens go before the prompt (in ``"chat"`` the template writes them), its end token (in a
            chat, the template's) after each response.
        form: how rows become tokens.
        progress: called with the number of rows tokenised since the last call.
        numbers: of the wanted rows, ascending; all by default.

    Raises:
        HycamError: the tokenizer has no end token, or no chat template although the prompt needs one; or a row cannot
            be rendered.
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
    """As :func:`encode`, kept in the cache and memory-mapped.

    Args:
        name: begins the name of the cache entry.
        source: identifies the content of ``dataset``.
        dataset: as for :func:`encode`.
        tokenizer: as for :func:`encode`; part of the entry's key.
        form: as for :func:`encode`; part of the entry's key.
        progress: as for :func:`encode`; not called if the entry exists.
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
    """Logs skipped rows, as ``load_task`` does for rows that are malformed in their file."""
    if bad:
        _log.warning("%s: %s malformed rows skipped; the first: %s", name, f"{len(bad):,}", bad[min(bad)])


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hexadecimal) of everything that ``save_pretrained`` writes of a tokenizer."""
    tokenizer("", **PLAIN)  # resets padding and truncation of an earlier call, which would be saved, too
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
    """Writes the rows batch by batch; returns the errors of skipped rows by their numbers."""
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
    """The rows in turn, at most ``_TEXT_AT_ONCE`` at a time but at least one."""
    if len(table) == 1 or table.nbytes <= _TEXT_AT_ONCE:
        yield table
    else:
        half = len(table) // 2
        yield from _portions(table.slice(0, half))
        yield from _portions(table.slice(half))


def _encode_batch(
    rows: dict[int, dict[str, Any]], tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[pyarrow.RecordBatch, dict[int, str]]:
    """Rows by their numbers as a batch of Arrow, and the errors of those that are skipped."""
    examples, bad = rendered(rows.items(), tokenizer, form)
    end = end_token(tokenizer, form.prompt)
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for (number, turns), tokens in zip(examples.items(), tokenised([*examples.values()], tokenizer, form), strict=True):
        row = rows[number]
        if isinstance(tokens, HycamError):
            bad[number] = skipped(row, tokens, form)
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
