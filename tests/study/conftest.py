"""Studies that run in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import yaml

from hycam.study import runner
from hycam.study.recipe import StudyRecipe
from hycam.study.run_cell import run_cell
from hycam.study.significance import row_bootstrap
from study.tiny import Inline, study_on


@pytest.fixture
def tiny_study(
    backbone: str, tasks: list[str], data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StudyRecipe]:
    """A study of LoRA and HyCAM on a tiny backbone and two tasks of 20 rows; other fields by name."""
    monkeypatch.setenv("HYCAM_CACHE", str(data_cache))  # for the processes of cells
    return partial(study_on, backbone, tasks, tmp_path / "study")


@pytest.fixture
def in_file(tmp_path: Path) -> Callable[[StudyRecipe, str], str]:
    """Writes a study into a file and gives its path."""

    def write(study: StudyRecipe, name: str = "study.yaml") -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(asdict(study), sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """What runs the cells of every study, in this process; they are trained and evaluated for real."""
    made = Inline(run_cell)
    monkeypatch.setattr(runner, "executor", lambda recipe: made)
    return made


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons resample rows a few hundred times: enough wherever the interval itself is not what is tested."""
    monkeypatch.setattr("hycam.study.comparisons.row_bootstrap", partial(row_bootstrap, resamples=300))
    monkeypatch.setattr("hycam.study.text_tests.BLEU_RESAMPLES", 300)
