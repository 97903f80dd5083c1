"""The example scripts run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_short(
    path: Path, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(path.read_text().splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path), backbone])
    runpy.run_path(str(path), run_name="__main__")  # in this process, which has paid for the imports
    assert "balance loss" in capsys.readouterr().out
    assert list(tmp_path.rglob("adapter_model.safetensors"))
