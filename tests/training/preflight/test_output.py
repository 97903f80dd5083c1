"""The run folder and the room on the disk."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.console import Silence
from hycam.lock import alone
from hycam.training.preflight import output
from hycam.training.preflight.output import check_output, check_room, room_needed
from hycam.training.run import Run
from hycam.training.train import train

Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_is_free_begun_and_complete(recipe) -> None:
    chosen = recipe(save_every=2, max_steps=4)
    (free,) = check_output(chosen)
    assert (free.severity, "is free" in free.text) == ("ok", True)
    assert not Path(chosen.output).exists()
    train(chosen, Silence())
    (complete,) = check_output(chosen)
    assert (complete.severity, "complete already" in complete.text) == ("warning", True)
    (Path(chosen.output) / "training.json").unlink()
    (begun,) = check_output(chosen)
    assert (begun.severity, "continues from checkpoint-4" in begun.text) == ("ok", True)
    (other,) = check_output(replace(chosen, training=replace(chosen.training, seed=1)))
    assert (other.severity, "training.seed is 2333 there and 1 now" in other.text) == ("error", True)


def test_a_folder_that_cannot_be_written_is_an_error(recipe, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    (under_a_file,) = check_output(replace(recipe(), output=str(tmp_path / "file" / "run")))
    assert under_a_file.severity == "error"
    assert "--output" in under_a_file.text

    def read_only(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(output.tempfile, "TemporaryFile", read_only)
    (refused,) = check_output(recipe())
    assert "refuses it (Read-only file system)" in refused.text


@pytest.mark.parametrize("states", ["32bit", "8bit"])
def test_the_room_that_is_asked_for_holds_the_adapter_and_three_checkpoints(recipe, states: str) -> None:
    if states == "8bit":
        pytest.importorskip("bitsandbytes")
    chosen = recipe(save_every=1, max_steps=2, optimizer_states=states)
    chosen.method.config = {"r": 64}  # large enough that its weights are most of the files
    summary = train(chosen, Silence())
    run = Run(Path(chosen.output))

    def size(folder: Path, suffixes: tuple[str, ...]) -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in suffixes)

    one = size(run.checkpoints / "checkpoint-2", (".safetensors", ".pt", ".bin"))
    needed = room_needed(chosen, summary["trainable_parameters"])
    assert size(run.adapter, (".safetensors",)) + 3 * one == pytest.approx(needed, rel=0.25)
    assert room_needed(recipe(), 1000) == 4000


def test_a_disk_that_is_too_small_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 150_000_000))
    assert [one.severity for one in check_room(tmp_path / "a" / "b", 140_000_000, "the adapter")] == ["ok"]
    (short,) = check_room(tmp_path / "a" / "b", 160_000_000, "the adapter")
    assert short.severity == "error"
    assert "150 MB free, 160 MB are needed" in short.text


def test_a_folder_in_which_another_process_trains_is_an_error(recipe) -> None:
    chosen = recipe()
    with alone(Path(chosen.output), "trains in"):
        (held,) = check_output(chosen)
    assert held.severity == "error"
    assert "trains in" in held.text
    (free,) = check_output(chosen)
    assert free.severity == "ok"
