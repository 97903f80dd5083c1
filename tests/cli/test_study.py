"""``hycam study``: what it prints, what it refuses, and what it survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hycam.cli.main import main
from hycam.lock import alone
from hycam.study.recipe import ExecutorRecipe, StudyMethod, StudyRecipe
from hycam.study.status import running
from hycam.training.loop import Loop
from hycam.training.recipe import TrainingRecipe
from hycam.training.run import Run
from study.tiny import LORA, TRAINING, Inline, pretend


@pytest.fixture
def study(tiny_study: Callable[..., StudyRecipe], in_file: Callable[[StudyRecipe], str]) -> Callable[..., str]:
    """The file of a study of LoRA and HyCAM on a tiny backbone; other fields by name."""
    return lambda **changes: in_file(tiny_study(**changes))


def listed(path: str, capsys: pytest.CaptureFixture[str], flag: str = "--status") -> dict[str, Any]:
    capsys.readouterr()
    assert main(["study", path, flag, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_study_is_planned_measured_run_and_looked_at(study, inline: Inline, capsys) -> None:
    path = study()
    assert main(["study", path, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("All cells: tiny, fold 0, seed 2333\n")
    assert "LoRA   to go" in shown and "the time is unknown" in shown
    assert "Primary family, 1 comparison over all tasks: HyCAM against LoRA." in shown and "Power: none" in shown
    assert not Path(path).with_name("study").exists()
    assert main(["study", path, "--cells", "1"]) == 0
    captured = capsys.readouterr()
    assert "LoRA: done in" in captured.err
    assert "2 cells: 1 done, 1 to go; the rest takes about" in captured.out
    planned = listed(path, capsys, "--dry-run")
    assert planned["states"]["to go"] == 1
    assert [line.partition(":")[0] for line in planned["power"]][1] == "Power"
    assert planned["estimated_seconds"] == pytest.approx(planned["cells"][1]["estimated_seconds"]) != 0
    assert main(["study", path]) == 0
    assert main(["study", path, "--status"]) == 0
    assert "2 cells: 2 done\n" in capsys.readouterr().out
    assert [cell.method for cell in inline.ran] == ["LoRA", "HyCAM"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"folds": [5]}, "counting: There is no fold 5: the folds are 0 to 4"),
        ({"methods": {"LoRA": StudyMethod("loar")}}, '"loar". Did you mean "lora"?'),
        ({"methods": {"LoRA": StudyMethod("lora", {"alpha": 3})}}, 'no setting "alpha". Did you mean "lora_alpha"?'),
        ({"vary": {"data.train_row": [2]}}, 'not a recipe field. Did you mean "data.train_rows"?'),
        ({"methods": {"a": StudyMethod("lora"), "b": StudyMethod("lora")}}, "Two cells are one and the same"),
        ({"methods": {"a": StudyMethod("peft", {"peft_type": "IA3"})}, "training": TrainingRecipe()},
         "peft has no learning rate of its own"),
        ({"learning_rates_from": "no-such.yaml"}, "There is no recipe no-such.yaml"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_before_anything_runs(study, inline: Inline, capsys, fields: dict, words: str) -> None:
    path = study(**fields)
    for arguments in ([], ["--dry-run"]):
        assert main(["study", path, *arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("hycam study: ") and words in error
    assert not inline.ran


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--cells", "0"], 2, "--cells needs a number above 0, not 0"),
        (["--cells"], 2, "--cells needs a number above 0, not nothing"),
        (["--json"], 2, "--json belongs to --status and --dry-run"),
        (["--flods", "[1]"], 2, 'no option --flods. Did you mean "folds"'),
        (["--executor.workers", "0"], 1, "executor.workers is 0"),
    ],
)
def test_wrong_arguments_are_said(study, capsys, arguments: list[str], status: int, words: str) -> None:
    assert main(["study", study(), *arguments]) == status
    assert words in capsys.readouterr().err


def test_an_unknown_field_of_the_file_is_named_with_the_nearest(study, capsys) -> None:
    path = Path(study())
    path.write_text(path.read_text().replace("\nfolds:", "\nfold:"))
    assert main(["study", str(path)]) == 1
    assert 'unknown field "fold". Did you mean "folds"?' in capsys.readouterr().err


def test_a_damaged_cell_is_named_and_left_as_it_is(study, inline: Inline, capsys, tmp_path: Path) -> None:
    inline.work = pretend(lambda cell: 2.0)
    path = study()
    assert main(["study", path]) == 0
    edited = next((tmp_path / "study" / "cells").glob("hycam-*"))
    text = edited.read_text().replace('"perplexity": ', '"perplexities": ')
    edited.write_text(text)
    capsys.readouterr()
    assert main(["study", path]) == 1
    captured = capsys.readouterr()
    assert "1 result files cannot be used, and their cells did not run" in captured.err
    assert (
        f"HyCAM: unusable ({edited}): its layout is not the one that this version reads: Object missing" in captured.out
    )
    assert edited.read_text() == text
    assert len(inline.ran) == 2


def test_a_failed_cell_is_told_and_the_status_is_1(study, inline: Inline, capsys) -> None:
    inline.work = pretend(lambda cell: "failed" if cell.method == "LoRA" else 2.0)
    path = study()
    assert main(["study", path]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 cells failed; the next run tries them again." in captured.err
    assert "LoRA: failed: no disk" in captured.out
    inline.work = pretend(lambda cell: 2.0)
    assert main(["study", path]) == 0
    assert [cell.method for cell in inline.ran] == ["LoRA", "HyCAM", "LoRA"]


def test_a_second_process_is_refused(study, inline: Inline, capsys, tmp_path: Path) -> None:
    path = study()
    with alone(tmp_path / "study", "runs the study in"):
        assert main(["study", path]) == 1
        assert "runs the study in" in capsys.readouterr().err
        assert listed(path, capsys)["states"]["to go"] == 2  # which may be looked at all the same
    assert not inline.ran


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_in_the_middle_of_a_cell_loses_nothing(
    study, inline: Inline, small_disk: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(runs=str(small_disk), training=replace(TRAINING, max_steps=6, save_every=2))
    trained: list[int] = []
    filler = small_disk / "filler"

    def step(self):
        trained.append(self.progress.step)
        if self.progress.step == 3 and not filler.exists():
            with filler.open("wb") as handle:  # somebody else's, up to the last block
                try:
                    while handle.write(b"\0" * 4096):
                        handle.flush()
                except OSError:
                    pass

    monkeypatch.setattr(Loop, "step_ended", step)
    assert main(["study", path, "--cells", "1"]) == 1
    (reason,) = [cell["reason"] for cell in listed(path, capsys)["cells"] if cell["state"] == "failed"]
    assert "cannot be written" in reason and "and training stopped at step 3. Make room" in reason
    filler.write_bytes(b"")
    trained.clear()
    assert main(["study", path]) == 0
    assert trained == [3, 4, 5, 6, *range(1, 7)]  # LoRA from its checkpoint, then HyCAM
    assert listed(path, capsys)["states"]["done"] == 2


def process(path: str, log: Path) -> subprocess.Popen:
    """A study in a process of its own, which leads a group of its own as from a shell."""
    with log.open("w") as handle:
        return subprocess.Popen(
            [sys.executable, "-m", "hycam.cli.main", "study", path], stderr=handle, stdout=handle, process_group=0,
            # Where the tests run in the background of a shell, Ctrl-C is ignored, and would be in this process too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def wait_until(is_so: Callable[[], Any], what: str, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {seconds} seconds"
        time.sleep(0.1)


def last_step(run: Run) -> int:
    return int(str(run.last_checkpoint()).rpartition("-")[2])


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_study_that_is_killed_goes_on_where_it_was_and_leaves_no_process_when_it_is_stopped(
    study, capsys, tmp_path: Path
) -> None:
    steps = 100_000
    path = study(methods=LORA, training=replace(TRAINING, max_steps=steps, save_every=20),
                 executor=ExecutorRecipe(threads=1))  # fmt: skip
    folder, log = tmp_path / "study", tmp_path / "log"

    first = process(path, log)
    try:
        wait_until(lambda: list(folder.glob("runs/lora-*/checkpoints/checkpoint-*/manifest.json")), "a checkpoint")
        assert [cell["state"] for cell in listed(path, capsys)["cells"]] == ["running"]
        first.kill()
        first.wait()
        wait_until(lambda: group_is_gone(first.pid), "the end of the cell's process")
    finally:
        first.kill()
    assert [cell["state"] for cell in listed(path, capsys)["cells"]] == ["to go"]
    (run,) = map(Run, folder.glob("runs/lora-*[0-9a-f]"))
    checkpoint = last_step(run)
    assert 20 <= checkpoint < steps
    logged = run.metrics.read_text().splitlines()

    second = process(path, log)
    try:
        wait_until(lambda: last_step(run) > checkpoint, "the next checkpoint")
        os.killpg(second.pid, signal.SIGINT)  # as a terminal sends it, to all of them
        assert second.wait(60) == 130
        wait_until(lambda: group_is_gone(second.pid), "the end of the cell's process")
    finally:
        second.kill()
    said = log.read_text()
    assert said.endswith("hycam study: stopped. What was complete is still there.\n")
    assert "Traceback" not in said and "KeyboardInterrupt" not in said
    assert running(folder) == {}
    assert run.metrics.read_text().splitlines()[:checkpoint] == logged[:checkpoint]  # no step was trained again


def test_the_status_of_a_study_that_was_run_needs_no_data(study, inline: Inline, capsys, monkeypatch) -> None:
    inline.work = pretend(lambda cell: 2.0)
    path = study()
    assert main(["study", path, "--cells", "1"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("hycam.study.grid.prepare", lambda *_: pytest.fail("the status looked for the data"))
        assert listed(path, capsys)["states"]["done"] == 1
    other = ["study", path, "--folds", "[0, 1]", "--status"]  # cells that the kept plan does not have
    assert main(other) == 0
    assert "4 cells: 1 done, 3 to go" in capsys.readouterr().out
