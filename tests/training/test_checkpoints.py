"""Only whole checkpoints are believed, and the last whole one is never deleted."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hycam.training.checkpoints import MANIFEST, PROGRESS, Checkpoints, damage, seal

CONTENT = {"adapter_model.safetensors": bytes(range(256)) * 3, "optimizer.pt": b"\0" * 500, "deep/rank_0.pt": b"shard"}


def save(kept: Checkpoints, step: int, best: int | None = None) -> Path:
    """A checkpoint as a training might write it."""
    folder = kept.at(step)
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / PROGRESS).write_text(json.dumps({"step": step, "best_step": best}))
    kept.seal(step)
    return folder


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES = [remove, cut, empty, flip, lengthen]


@pytest.mark.parametrize("do", DAMAGES)
@pytest.mark.parametrize("name", [*CONTENT, PROGRESS])
def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path, do: Callable[[Path], None], name: str) -> None:
    folder = save(Checkpoints(tmp_path), 2)
    assert damage(folder) is None
    do(folder / name)
    assert name in damage(folder)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_byte_of_a_checkpoint_can_change_unnoticed(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    """But for those of the manifest that mean nothing, such as a space."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint-1"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder)
    before = json.loads((folder / MANIFEST).read_text())
    path = folder / data.draw(st.sampled_from([*CONTENT, MANIFEST]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        means_the_same = path.name == MANIFEST and json.loads(content.decode()) == before
    except ValueError:
        means_the_same = False
    assert (damage(folder) is None) == means_the_same


@pytest.mark.parametrize("do", DAMAGES)
def test_the_one_before_a_damaged_one_is_used_and_both_are_named(tmp_path: Path, do, caplog) -> None:
    kept = Checkpoints(tmp_path)
    for step in (2, 4, 10):
        save(kept, step)
    do(kept.at(10) / "optimizer.pt")
    with caplog.at_level(logging.WARNING):
        assert kept.resume_from() == kept.at(4)
    (message,) = caplog.messages
    assert all(word in message for word in ("checkpoint-10", "optimizer.pt", "continues from", "checkpoint-4"))
    assert kept.steps() == [2, 4]
    assert (tmp_path / "unusable-checkpoint-10" / MANIFEST).exists()  # nothing is lost that might be wanted


def test_one_that_was_never_finished_makes_way(tmp_path: Path, caplog) -> None:
    kept = Checkpoints(tmp_path)
    save(kept, 2)
    shutil.copytree(kept.at(2), kept.at(4))
    (kept.at(4) / MANIFEST).unlink()
    assert kept.steps() == [2]
    with caplog.at_level(logging.WARNING):
        assert kept.resume_from() == kept.at(2)
    assert "checkpoint-4 was not finished" in caplog.text
    assert not kept.at(4).exists()


def test_where_none_is_whole_training_begins_anew_and_says_so(tmp_path: Path, caplog) -> None:
    kept = Checkpoints(tmp_path)
    for step in (2, 4):
        flip(save(kept, step) / "optimizer.pt")
    with caplog.at_level(logging.WARNING):
        assert kept.resume_from() is None
    assert len(caplog.messages) == 2 and all("begins anew" in message for message in caplog.messages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unusable-checkpoint-2", "unusable-checkpoint-4"]
    assert Checkpoints(tmp_path / "nothing").resume_from() is None


def test_one_whose_best_is_damaged_is_not_used_where_training_goes_back_to_it(tmp_path: Path, caplog) -> None:
    for goes_back in (True, False):
        kept = Checkpoints(tmp_path / str(goes_back), goes_back=goes_back)
        for step, best in ((2, 2), (4, 4), (6, 4)):
            save(kept, step, best)
        flip(kept.at(4) / "optimizer.pt")
        with caplog.at_level(logging.WARNING):
            assert kept.resume_from() == kept.at(2 if goes_back else 6)
    assert "checkpoint-4, the best so far, cannot be used" in caplog.text


@pytest.mark.parametrize("jump", [-1e6, 0, 1e6])
def test_the_newest_two_stay_and_the_best_whatever_the_clock_says(tmp_path: Path, jump: float) -> None:
    kept = Checkpoints(tmp_path, goes_back=True)
    best = {2: 2, 4: 4, 6: 4, 8: 4, 10: 10, 12: 10}
    stay = {2: [2], 4: [2, 4], 6: [4, 6], 8: [4, 6, 8], 10: [4, 8, 10], 12: [10, 12]}
    for step, known in best.items():
        os.utime(save(kept, step, known), (1e9 + step * jump, 1e9 + step * jump))
        kept.rotate()
        assert kept.steps() == stay[step]
        assert len(stay[step]) <= kept.most


def test_what_is_not_finished_is_not_counted_among_those_that_stay(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in (2, 4):
        save(kept, step)
    for step in (6, 8):
        kept.at(step).mkdir()
    kept.rotate()
    assert kept.steps() == [2, 4]
    assert not kept.at(8).exists()


def test_a_kill_while_an_old_one_is_deleted_leaves_nothing_that_looks_damaged(tmp_path: Path, monkeypatch) -> None:
    kept = Checkpoints(tmp_path)
    for step in (2, 4, 6):
        save(kept, step)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        kept.rotate()
    assert kept.steps() == [4, 6]
    kept.rotate()
    assert not kept.at(2).exists()


def test_all_is_on_the_disk_before_a_checkpoint_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a power failure undoes, a checkpoint that is there is whole."""
    beside = tmp_path / "metrics.jsonl"
    beside.write_text("{}\n")
    kept = Checkpoints(tmp_path / "checkpoints", beside=[beside])
    synced: set[str] = set()
    sync, replace = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def counts(source: Path, target: Path) -> Path:
        folder = kept.at(2)
        assert {str(folder / name) for name in (*CONTENT, PROGRESS)} <= synced
        assert {str(folder), str(folder / "deep"), str(source), str(beside)} <= synced
        synced.clear()
        return replace(source, target)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr(Path, "replace", counts)
    save(kept, 2)
    assert {str(kept.at(2)), str(kept.folder)} <= synced  # and its name after it


def test_a_full_disk_while_it_is_sealed_leaves_it_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path)
    save(kept, 2)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(kept, 4)
    assert kept.steps() == [2]
