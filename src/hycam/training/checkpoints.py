"""Checkpoints that are known to be complete: each has a manifest of its files, which is written last.

::

    checkpoints/checkpoint-N/               the state after step N
    checkpoints/checkpoint-N/manifest.json  the size and SHA-256 of each of its files
    checkpoints/unusable-checkpoint-N/      a damaged one, which nothing reads

A checkpoint without a manifest was never finished. A missing, truncated or altered file does not match it, so an
interrupted write and a failing disk are noticed before anything is loaded. Of several processes all may read, but only
the main one calls ``seal`` (once all have written their parts), ``rotate`` and ``resume_from``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from hycam.files import replace_whole, sync, sync_tree

_PREFIX = "checkpoint"
MANIFEST = "manifest.json"
PROGRESS = "progress_0.json"
"""The progress of the main process; see :mod:`hycam.training.state`."""
_KEPT = 2
_log = logging.getLogger(__name__)


def seal(folder: Path) -> None:
    """Syncs a folder to the disk and writes the manifest of its files.

    Raises:
        OSError: it cannot be written; who asked for the folder knows what to tell the user.
    """
    sync_tree(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = {str(path.relative_to(folder)): _entry(path) for path in files}
    replace_whole(folder / MANIFEST, json.dumps({"files": entries}, indent=1) + "\n")


def damage(folder: Path, files: str = "*") -> str | None:
    """What is wrong with a sealed folder, in words; None if every file is as it was written.

    ``files`` is a pattern of the files to check.
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
    except (ValueError, KeyError, TypeError, AttributeError):  # the first also if it is not UTF-8
        return f"{MANIFEST} cannot be read"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are.
        beside: files elsewhere that a checkpoint relies on, such as the metrics; synced before it counts.
        goes_back: whether training ends with the best checkpoint, so that each one needs the best so far.
    """

    def __init__(self, folder: Path, beside: Sequence[Path] = (), goes_back: bool = False) -> None:
        self.folder = folder
        self._beside = beside
        self._goes_back = goes_back

    @property
    def most(self) -> int:
        """The most that are kept."""
        return _KEPT * (2 if self._goes_back else 1)

    def at(self, step: int) -> Path:
        """The folder of the checkpoint after this step."""
        return self.folder / f"{_PREFIX}-{step}"

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, in order, by their names alone."""
        return sorted(step for step, folder in self._folders().items() if (folder / MANIFEST).exists())

    def seal(self, step: int) -> None:
        """Marks the checkpoint after this step as finished.

        Raises:
            OSError: it cannot be written.
        """
        for path in self._beside:
            if path.exists():
                sync(path)
        seal(self.at(step))
        sync(self.folder)

    def rotate(self) -> None:
        """Deletes all but the newest two by step (a clock may jump) and the best ones that these name."""
        newest = self.steps()[-_KEPT:]
        kept = {*newest, *(best for step in newest if (best := self._best(step)) is not None)}
        for step in set(self._folders()) - kept:
            _delete(self.at(step))

    def resume_from(self) -> Path | None:
        """The newest intact checkpoint whose best checkpoint is intact too; None if training begins anew.

        Unfinished ones are deleted. Damaged ones, and those whose best one is damaged, are renamed, so that nothing is
        lost and nothing mistakes them for intact. A warning names each, and says what happens instead.
        """
        unusable: list[tuple[int, str]] = []
        found = None
        for step in sorted(self._folders(), reverse=True):
            wrong = damage(self.at(step))
            best = None if wrong else self._best(step)
            if best is not None and best != step and (wrong := damage(self.at(best))):
                wrong = f"{self.at(best).name}, the best so far, cannot be used: {wrong}"
            if wrong is None:
                found = step
                break
            unusable.append((step, wrong))
        instead = "training begins anew" if found is None else f"training continues from {self.at(found)}"
        for step, wrong in unusable:
            folder = self.at(step)
            if not (folder / MANIFEST).exists():
                _delete(folder)
                _log.warning("%s was not finished and is deleted (%s); %s.", folder, wrong, instead)
                continue
            aside = folder.with_name(f"unusable-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
            _log.warning("%s is damaged (%s); %s. It is kept as %s.", folder, wrong, instead, aside.name)
        return None if found is None else self.at(found)

    def _folders(self) -> dict[int, Path]:
        found = {}
        for folder in self.folder.glob(f"{_PREFIX}-*"):
            step = folder.name.rpartition("-")[2]
            if step.isdecimal() and folder.is_dir():
                found[int(step)] = folder
        return found

    def _best(self, step: int) -> int | None:
        """The step of the best checkpoint, according to the one after this step."""
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
