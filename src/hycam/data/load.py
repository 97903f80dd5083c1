"""A task as an Arrow table."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields

import datasets

from hycam.data.tasks import Example, task
from hycam.errors import HycamError

_log = logging.getLogger(__name__)

FEATURES = datasets.Features({field.name: datasets.Value("string") for field in fields(Example)})


def load_task(name_or_path: str) -> datasets.Dataset:
    """The rows of a task or of a file, with the columns row, group, instruction, input and response, all text.

    Rows without a response, and rows that ask nothing, teach nothing: they are left out, counted and logged.

    Raises:
        HycamError: there is no such task, its data cannot be had, a row is malformed, or no row is left.
    """
    found = task(name_or_path)
    examples = list(found.examples())
    kept = [asdict(one) for one in examples if one.response.strip() and (one.instruction + one.input).strip()]
    if not kept:
        raise HycamError(f"{found.path() or name_or_path} has no row with an instruction and a response.")
    if len(kept) < len(examples):
        _log.warning(
            "%s: %s of %s rows left out because the response or the question is empty",
            found.name,
            f"{len(examples) - len(kept):,}",
            f"{len(examples):,}",
        )
    return datasets.Dataset.from_list(kept, features=FEATURES)
