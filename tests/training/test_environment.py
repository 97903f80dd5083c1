"""Faults of the machine around a training: a full disk, a folder that cannot be written, a clock, a second process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.training.loop import Loop
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from train_children import after_step, elsewhere, full_from, result, trained


@pytest.fixture(scope="module")
def whole(
    build: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory, shared_cache: None
) -> tuple[Recipe, dict]:
    """A recipe that keeps checkpoints, and what it ends with."""
    made = build(tmp_path_factory.mktemp("environment") / "run", max_steps=4, save_every=1, log_every=1)
    child = trained(made)
    assert child.wait() == 0, child.said()
    return made, result(made)


def ends_as(recipe: Recipe, expected: dict) -> None:
    """The same command again, with the fault gone, ends with what an undisturbed run ends with."""
    child = trained(recipe)
    assert child.wait() == 0, child.said()
    assert result(recipe) == expected


def told(said: str, *words: str) -> None:
    """One message, without a traceback."""
    assert "Traceback" not in said, said
    assert said.count("hycam train: ") == 1 and all(word in said for word in words), said


FULL = [pytest.param(step, size, marks=[] if (step, size) == (3, 10_000) else pytest.mark.soak)
        for step in (1, 3) for size in (1_400, 4_000, 10_000, 30_000)]  # fmt: skip


@pytest.mark.parametrize(("step", "size"), FULL)
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_costs_that_checkpoint(whole, step: int, size: int) -> None:
    recipe, expected = elsewhere(whole[0], f"full-{step}-{size}"), whole[1]
    child = trained(recipe, prepare=lambda: full_from(step, size))
    assert child.wait() == 1
    last = f"continues from step {step - 1}" if step > 1 else "begins anew"
    told(child.said(), "cannot be written", "Make room", last)
    kept = Run(Path(recipe.output)).checkpoints
    assert not list(kept.glob(f"checkpoint-{step}")), "half a checkpoint is in the way on a full disk"
    ends_as(recipe, expected)


def test_a_disk_that_is_full_when_the_adapter_is_written_costs_the_adapter(recipe) -> None:
    whole = recipe(max_steps=2, log_every=100)
    child = trained(whole)
    assert child.wait() == 0, child.said()
    again = elsewhere(whole, "full")
    child = trained(again, prepare=lambda: full_from(1, 10_000))
    assert child.wait() == 1
    told(child.said(), "Could not write", "adapter", "Make room")
    assert not Run(Path(again.output)).adapter.exists()
    assert not [path for path in Path(again.output).iterdir() if path.name.startswith(".adapter")]
    ends_as(again, result(whole))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.soak
def test_a_real_disk_that_fills_up_is_one_message_and_costs_nothing(whole, small_disk: Path, monkeypatch) -> None:
    monkeypatch.setattr("hycam.training.train.needs_room", lambda *_: None)  # it would say so before the first step
    recipe, expected = replace(whole[0], output=str(small_disk / "run")), whole[1]
    for free in (120_000, 30_000, 4_000, 300):  # in a checkpoint, and in smaller and smaller files
        ballast = small_disk / "ballast"

        def fill(free: int = free, ballast: Path = ballast) -> None:
            room = os.statvfs(small_disk)
            ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - free))

        child = trained(recipe, prepare=lambda fill=fill: after_step(fill))
        status = child.wait()
        assert status == 1, child.said()
        told(child.said(), "cannot be written", "Make room")
        ballast.unlink()
    ends_as(recipe, expected)


@pytest.mark.parametrize("how", ["read-only", pytest.param("immutable", marks=pytest.mark.soak)])
def test_a_run_folder_that_cannot_be_written_any_more_is_one_message(whole, how: str, tmp_path: Path) -> None:
    recipe, expected = elsewhere(whole[0], how), whole[1]
    folder = Path(recipe.output)
    lock = {
        "read-only": [f"mount --bind {folder} {folder}", f"mount -o remount,ro,bind {folder}"],
        "immutable": [f"chattr +i {folder / 'checkpoints'}"],
    }[how]
    unlock = {"read-only": f"umount --lazy {folder}", "immutable": f"chattr -i {folder / 'checkpoints'}"}[how]
    tried = tmp_path / "refused"

    def make() -> None:
        for command in lock:
            if subprocess.run(command.split(), capture_output=True).returncode:
                tried.touch()
                os._exit(1)

    child = trained(recipe, prepare=lambda: after_step(make))
    status = child.wait()
    if tried.exists():
        pytest.skip(f"a folder cannot be made {how} here")
    subprocess.run(unlock.split(), check=True)
    assert status == 1, child.said()
    told(child.said(), "cannot be written", "Read-only" if how == "read-only" else "not permitted")
    ends_as(recipe, expected)


@pytest.mark.soak
def test_a_cache_that_cannot_be_written_any_more_is_no_obstacle_once_it_has_what_is_needed(whole, data_cache) -> None:
    recipe, expected = elsewhere(whole[0], "cached"), whole[1]
    folder = data_cache / "data"
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
        pytest.skip("a folder cannot be made immutable here")
    try:
        ends_as(recipe, expected)
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_clock_that_jumps_back_changes_nothing(whole, recipe) -> None:
    """An hour with every reading of the time of day; the folders' times go back too."""
    again, expected = elsewhere(whole[0], "clock"), whole[1]

    def jump() -> None:
        now, read = [time.time()], time.time

        def earlier() -> float:
            now[0] -= 3600.0
            return now[0]

        time.time = earlier

        def age() -> None:
            for folder in Run(Path(again.output)).checkpoints.glob("checkpoint-*"):
                step = int(folder.name.rpartition("-")[2])
                os.utime(folder, (1e9 - step * 3600, 1e9 - step * 3600))

        step_ended = Loop.step_ended

        def then(self):
            step_ended(self)
            age()
            if self.progress.step == 4 and not (Path(again.output) / "again").exists():
                (Path(again.output) / "again").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        Loop.step_ended = then
        assert read() > now[0]

    assert trained(again, prepare=jump).wait() == -signal.SIGKILL
    assert Run(Path(again.output)).last_checkpoint().endswith("checkpoint-3")
    child = trained(again, prepare=jump)
    assert child.wait() == 0, child.said()
    assert result(again) == expected
    assert 0 <= Run(Path(again.output)).summary()["seconds"] < 600


def test_a_second_process_on_a_run_folder_is_refused_by_name_and_a_dead_one_is_not_in_the_way(whole) -> None:
    recipe, expected = elsewhere(whole[0], "shared"), whole[1]
    first = trained(recipe, prepare=lambda: after_step(lambda: time.sleep(300)))
    while not Run(Path(recipe.output)).metrics.exists():
        assert first.is_alive(), first.said()
        time.sleep(0.02)
    second = trained(replace(recipe))
    assert second.wait() == 1
    told(second.said(), f"Another process (process {first.number} on ", f"trains in {recipe.output}")
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    ends_as(recipe, expected)
