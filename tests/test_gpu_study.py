"""benchmarks/gpu_study.sh with a Python that only says which study it was given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_study.sh"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with the script in it, installed. Studies end as their names say; 124 is what timeout gives."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu_study.sh").write_bytes(SCRIPT.read_bytes())
    python = tmp_path / ".gpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\necho "ran ${@: -1}"\ncase "$*" in *fails*) exit 1 ;; *long*) exit 124 ;; esac\n')
    python.chmod(0o755)
    (tmp_path / ".gpu" / "complete").touch()
    return tmp_path


def run(place: Path, seconds: int, *studies: str) -> tuple[int, list[str]]:
    words = ["bash", "benchmarks/gpu_study.sh", ".", ".", str(seconds), *studies]
    environment = {**os.environ, "HYCAM_DATA": ".", "OUT": ""}
    ended = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
    return ended.returncode, [line for line in ended.stdout.splitlines() if not line.startswith("==")]


def test_every_study_is_run_and_then_it_says_complete(place: Path) -> None:
    assert run(place, 100, "a.yaml", "b.yaml") == (0, ["ran a.yaml", "ran b.yaml", "complete"])


def test_a_study_with_failed_cells_does_not_keep_the_next_from_running_and_is_named(place: Path) -> None:
    code, lines = run(place, 100, "fails.yaml", "b.yaml")
    assert (code, lines[:2]) == (1, ["ran fails.yaml", "ran b.yaml"])
    assert "not finished" in lines[-1] and "fails.yaml" in lines[-1]


@pytest.mark.parametrize(("seconds", "studies"), [(100, ["long.yaml"]), (20, ["a.yaml"])], ids=["within", "between"])
def test_when_the_time_is_up_it_does_not_say_complete(place: Path, seconds: int, studies: list[str]) -> None:
    code, lines = run(place, seconds, *studies, "b.yaml")
    assert code == 0
    assert lines[-1] == "the time is up; the same command continues"
    assert "ran b.yaml" not in lines
