"""A task as an Arrow table on disk, built once and memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow
from datasets.fingerprint import Hasher

from hycam.data.cache import cached, read_arrow
from hycam.data.chosen import task
from hycam.data.columns import ByColumns
from hycam.data.rows import Bad, Example, refuse
from hycam.data.sources import Convert, Fetched, Task
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

_TURN = pyarrow.struct([("asked", pyarrow.string()), ("answered", pyarrow.string())])
_SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("row", "group", "instruction", "input", "response", "system")),
        ("history", pyarrow.list_(_TURN)),
        ("part", pyarrow.string()),
        ("messages", pyarrow.string()),
    ]
)

_ROWS_AT_ONCE = 1000
_TEXT_AT_ONCE = 64 << 20  # characters; a few giant rows fill a batch, too
_LONG_TO_READ = 50e6  # bytes; a larger file is announced


def load_task(wanted: str | Task, skip_bad_rows: bool = False, keep_empty: bool = False) -> datasets.Dataset:
    """The rows of a task or of a file, with the columns of :class:`hycam.data.rows.Example`.

    The rows stay on disk. Rows without a trained response or without a question are skipped, counted and logged, and
    with ``skip_bad_rows`` so are malformed rows. A row count that differs from the paper's is logged.

    Args:
        wanted: a task, its name, or the path of a file or a folder.
        skip_bad_rows: skip malformed rows if the next row can be found.
        keep_empty: keep rows without a response or a question.

    Raises:
        HycamError: there is no such task, its data are not available, a row is malformed, or no row is left.
    """
    found = task(wanted) if isinstance(wanted, str) else wanted
    fetched, path = found.fetch(), found.path()
    size = path.stat().st_size if path is not None and path.is_file() else 0
    if size > _LONG_TO_READ:
        _log.info("%s: reading %s MB of %s", found.name, f"{size / 1e6:,.0f}", path)
    key = {"rows": fetched.key, "convert": _called(fetched.convert), "skip": skip_bad_rows}
    folder = cached(found.name, key, lambda folder: _build(fetched, folder, skip_bad_rows, path))
    dataset = read_arrow(folder / "rows.arrow")
    try:
        told = json.loads((folder / "counts.json").read_text())
    except (OSError, ValueError) as error:
        raise HycamError(f"{folder} in the cache is damaged ({error}): delete it and try again.") from error
    if told["bad"]:
        first = told["first_bad"].replace(told["path"], str(path or ""))  # the same rows may have moved
        _log.warning("%s: %s malformed rows skipped; the first: %s", found.name, f"{told['bad']:,}", first)
    if len(dataset) == (0 if keep_empty else len(told["empty"])):
        raise HycamError(f"{path or found.name} has no row with an instruction and a response.")
    difference = found.compare(len(dataset))
    if difference is not None:
        _log.info("%s", difference)
    if not told["empty"] or keep_empty:
        return dataset
    _log.warning(
        "%s: %s of %s rows skipped because the response or the question is empty or no answer is trained",
        found.name,
        f"{len(told['empty']):,}",
        f"{len(dataset):,}",
    )
    return dataset.select(np.delete(np.arange(len(dataset)), told["empty"]))


def _called(convert: Convert) -> str:
    """Identifies a converter, the same in every process: its settings, or its code."""
    if isinstance(convert, ByColumns):
        return repr(convert)
    # Hasher takes an importable function by its name alone, so the code of its module is part of the key, too.
    file = getattr(sys.modules.get(convert.__module__), "__file__", None)
    code = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return f"{Hasher.hash(convert)} {code}"


def _build(fetched: Fetched, folder: Path, skip_bad_rows: bool, path: Path | None) -> None:
    bad: list[str] = []
    empty: list[int] = []

    def skip(error: HycamError) -> None:
        bad.append(str(error) if not bad else "")  # the first is shown, the others are only counted

    total = 0
    with pyarrow.ipc.new_stream(str(folder / "rows.arrow"), _SCHEMA) as writer:
        for batch in _batches(_examples(fetched, skip if skip_bad_rows else refuse)):
            empty += [total + number for number, example in enumerate(batch) if example.is_empty]
            total += len(batch)
            writer.write_batch(pyarrow.RecordBatch.from_pylist([vars(example) for example in batch], _SCHEMA))
    counts = {"empty": empty, "bad": len(bad), "first_bad": bad[0] if bad else "", "path": str(path or "")}
    (folder / "counts.json").write_text(json.dumps(counts))


def _examples(fetched: Fetched, bad: Bad) -> Iterator[Example]:
    """The examples in the order of the source; ``bad`` gets the error of a malformed row.

    Raises:
        HycamError: reading cannot go on, or no row has a named column.
    """
    convert, row = fetched.convert, None
    missing = set(convert.expected) if isinstance(convert, ByColumns) else set()
    for row in fetched.read(bad):
        missing -= row.fields.keys()
        try:
            example = convert(row)
        except HycamError as error:
            bad(error)
        else:
            if example is not None:
                yield example
    if missing and row is not None:
        known = ", ".join(map(str, row.fields))
        raise HycamError(f"{row.path} has no column {', '.join(sorted(missing))} in any row. Columns: {known}.")


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        texts = (example.group, example.instruction, example.input, example.response, example.system, example.messages)
        size += sum(map(len, texts)) + sum(len(one["asked"]) + len(one["answered"]) for one in example.history)
        if len(batch) == _ROWS_AT_ONCE or size > _TEXT_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
