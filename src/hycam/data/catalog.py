"""Which tasks there are, what of them is on this machine, and fetching the rest."""

from __future__ import annotations

from dataclasses import dataclass

from hycam.data.chosen import task
from hycam.data.load import load_task
from hycam.data.tasks import TASKS


@dataclass(frozen=True)
class Entry:
    """One task of the listing. ``rows`` and ``path`` are None where the data are not on this machine yet."""

    name: str
    domain: str
    rows: int | None
    source: str
    path: str | None
    licence: str


def catalog() -> list[Entry]:
    """Every known task. Reads what is here to count it, and fetches nothing.

    Raises:
        HycamError: a file that is here is malformed.
    """
    entries = []
    for name, known in TASKS.items():
        path = known.path()
        entries.append(
            Entry(
                name=name,
                domain=known.domain,
                rows=len(load_task(name)) if path else None,
                source=" or ".join(source.describe() for source in known.sources),
                path=str(path) if path else None,
                licence=known.licence,
            )
        )
    return entries


def fetch(name: str) -> str:
    """Fetches a task's data where they are not here yet, and says where they are.

    Raises:
        HycamError: there is no such task, or its data cannot be had.
    """
    wanted = task(name)
    wanted.fetch()
    return str(wanted.path() or "in the cache of the library datasets")
