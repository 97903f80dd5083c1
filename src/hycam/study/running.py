"""Which process runs a study, and what it is at: kept in the study's folder, for ``--status`` in another process."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.lock import LOCK_FILE
from hycam.study.executors.events import Event, Progressed, Started

_FILE = ".running.json"
_SECONDS_BETWEEN_WRITES = 5.0


@dataclass(frozen=True)
class Doing:
    """What a running cell is at, since when (Unix time)."""

    since: float
    what: str

    @property
    def seconds(self) -> float:
        return time.time() - self.since


class Board:
    """Keeps what runs, as the executor's events say, and writes it down every few seconds."""

    def __init__(self, folder: Path) -> None:
        self.doing: dict[str, Doing] = {}
        self._path = folder / _FILE
        self._written = 0.0

    def tell(self, event: Event) -> None:
        """Something happened."""
        identity = event.cell.identity
        if isinstance(event, Started):
            self.doing[identity] = Doing(time.time(), "starts")
        elif isinstance(event, Progressed):
            self.doing[identity] = Doing(self.doing[identity].since, event.text)
            if time.monotonic() < self._written + _SECONDS_BETWEEN_WRITES:
                return
        else:
            del self.doing[identity]
        self._written = time.monotonic()
        with suppress(HycamError):  # it is for show alone; where the disk is full, the next result says so
            write_whole(self._path, json.dumps({key: asdict(value) for key, value in self.doing.items()}))

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


def running(folder: Path) -> Mapping[str, Doing]:
    """What another process runs of the study in this folder, by the cell's identity; nothing where there is none.

    A process that was killed leaves its file, so that is believed only while the lock is held.
    """
    try:
        if not _is_held(folder / LOCK_FILE):
            return {}
        content = json.loads((folder / _FILE).read_text())
        return {identity: Doing(float(value["since"]), str(value["what"])) for identity, value in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # gone by now, or damaged: it is for show alone


def _is_held(lock: Path) -> bool:
    with lock.open() as handle:  # for reading only: a study can be looked at where it cannot be written
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
