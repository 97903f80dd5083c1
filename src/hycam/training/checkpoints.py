"""Checkpoints that are known to be whole: each has a manifest of its files, which is written last.

::

    checkpoints/checkpoint-N/               what training goes on from after step N
    checkpoints/checkpoint-N/manifest.json  the size and SHA-256 of each of its files
    checkpoints/unusable-checkpoint-N/      one that was found damaged; nothing reads it

A checkpoint without a manifest was never finished. A file that is missing, was cut or was altered does not fit it, so
an interrupted write and a failing disk are both noticed before anything is loaded. Where several processes train, all
may read; the main process alone calls what writes: ``seal`` (once all have written their parts), ``rotate`` and
``resume_from``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from hycam.files import sync, sync_tree, write_whole

_PREFIX = "checkpoint"
MANIFEST = "manifest.json"
PROGRESS = "progress_0.json"
"""How far the main process had come; see :mod:`hycam.training.state`."""
_KEPT = 2
_log = logging.getLogger(__name__)


def seal(folder: Path) -> None:
    """Syncs a folder to the disk and writes the manifest of its files.

    Raises:
        HycamError: it cannot be written.
        OSError: a file cannot be synced.
    """
    sync_tree(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = {str(path.relative_to(folder)): _entry(path) for path in files}
    write_whole(folder / MANIFEST, json.dumps({"files": entries}, indent=1) + "\n")


def damage(folder: Path, files: str = "*") -> str | None:
    """What is wrong with a sealed folder, in words, or None while every file is as it was written.

    Args:
        folder: what :func:`seal` sealed.
        files: which of its files matter, as a pattern.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in entries:
            if not Path(name).match(files):
                continue
            path, (size, digest) = folder / name, (entries[name]["bytes"], entries[name]["sha256"])
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} bytes and had {size:,}"
            if _entry(path)["sha256"] != digest:
                return f"the content of {name} has changed"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError):  # the first also where it is no UTF-8
        return f"{MANIFEST} cannot be read"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are.
        beside: files outside that a checkpoint relies on, such as the metrics up to its step; synced before it counts.
        goes_back: whether training ends with the best checkpoint so far, so that each needs the one that it calls so.
    """

    def __init__(self, folder: Path, beside: Sequence[Path] = (), goes_back: bool = False) -> None:
        self.folder = folder
        self._beside = beside
        self._goes_back = goes_back

    @property
    def most(self) -> int:
        """How many there are at most between two steps."""
        return _KEPT * (2 if self._goes_back else 1)

    def at(self, step: int) -> Path:
        """Where the checkpoint after this step is, or would be."""
        return self.folder / f"{_PREFIX}-{step}"

    def steps(self) -> list[int]:
        """The steps after which a checkpoint was finished, in order. Nothing is read but names."""
        return sorted(step for step, folder in self._folders().items() if (folder / MANIFEST).exists())

    def seal(self, step: int) -> None:
        """Says that the checkpoint after this step is finished, and may be believed from now on.

        Raises:
            HycamError, OSError: it cannot be written.
        """
        for path in self._beside:
            if path.exists():
                sync(path)
        seal(self.at(step))
        sync(self.folder)

    def rotate(self) -> None:
        """Deletes all but the newest two, and those that these two may go back to.

        The order is that of the steps, since a clock may jump.
        """
        newest = self.steps()[-_KEPT:]
        kept = {*newest, *(best for step in newest if (best := self._best(step)) is not None)}
        for step in set(self._folders()) - kept:
            _delete(self.at(step))

    def resume_from(self) -> Path | None:
        """The newest whole checkpoint whose best checkpoint is whole too; None where training begins anew.

        Those that were never finished are deleted. Those that are damaged, or lean on a damaged one, are renamed, so
        that nothing is lost and nothing takes them for whole. Each is named in a warning, with what happens instead.
        """
        passed_over: list[tuple[int, str]] = []
        found = None
        for step in sorted(self._folders(), reverse=True):
            wrong = damage(self.at(step))
            best = None if wrong else self._best(step)
            if best is not None and best != step and (wrong := damage(self.at(best))):
                wrong = f"{self.at(best).name}, the best so far, cannot be used: {wrong}"
            if wrong is None:
                found = step
                break
            passed_over.append((step, wrong))
        instead = "training begins anew" if found is None else f"training continues from {self.at(found)}"
        for step, wrong in passed_over:
            folder = self.at(step)
            if not (folder / MANIFEST).exists():
                _delete(folder)
                _log.warning("%s was not finished and is deleted (%s); %s.", folder, wrong, instead)
                continue
            aside = folder.with_name(f"unusable-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
            _log.warning("%s is not whole (%s); %s. It is kept as %s.", folder, wrong, instead, aside.name)
        return None if found is None else self.at(found)

    def _folders(self) -> dict[int, Path]:
        found = {}
        for folder in self.folder.glob(f"{_PREFIX}-*"):
            step = folder.name.rpartition("-")[2]
            if step.isdecimal() and folder.is_dir():
                found[int(step)] = folder
        return found

    def _best(self, step: int) -> int | None:
        """The step of the checkpoint that the one after this step may go back to."""
        if not self._goes_back:
            return None
        path = self.at(step) / PROGRESS
        return json.loads(path.read_text(encoding="utf-8"))["best_step"] if path.exists() else None


def _entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _delete(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a kill in the middle leaves no damaged one
    shutil.rmtree(folder, ignore_errors=True)
