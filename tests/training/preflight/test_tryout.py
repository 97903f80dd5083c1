"""What a trial's outcome is told as, from the record that its processes leave; real ones are in tests/cli."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hycam.training.launch import Failed
from hycam.training.parse import parse_recipe
from hycam.training.preflight import Finding, tryout
from hycam.training.preflight.trial import PHASES
from hycam.training.preflight.tryout import try_out
from hycam.training.recipe import Recipe

MB = 10**6
KNOWN = {"free": 1000 * MB, "steps": 50, "batch": {"rows": 4, "longest": 300}}


def record(last: str | None, **further: Any) -> dict[str, Any]:
    """That of a process which has come to the end of this phase; the backward pass takes the most."""
    names = list(PHASES)[: list(PHASES).index(last) + 1] if last else []
    phases = {name: {"peak": (1200 if name == "backward" else 900) * MB, "held": 0, "seconds": 2.0} for name in names}
    return {"phases": phases, "last": last, **(KNOWN if last else {}), **further}


@pytest.fixture
def tried(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """Tries a recipe whose processes leave these records and end like this."""

    def tried(*records: dict[str, Any] | None, ended: str = "", **training: Any) -> Finding:
        def run(folder: Path, world: int = 1) -> str:
            for rank, one in enumerate(records):
                if one is not None:
                    (folder / f"{rank}.json").write_text(json.dumps(one))
            return ended

        monkeypatch.setattr(tryout, "_in_a_process", run)
        monkeypatch.setattr(tryout, "_launched", run)
        (found,) = try_out(recipe(**training), len(records))
        return found

    return tried


def test_what_it_takes_is_told_with_the_step_s_time(tried) -> None:
    whole = record("validation", done=True)
    found = tried(whole, gradient_accumulation=4)
    assert found.severity == "ok"
    for said in ("at most 1,200 MB, in the backward pass. With the data there, 1,000 MB were free",
                 "4 rows, the longest of 300", "takes 18.0 s; the run has 50"):  # fmt: skip
        assert said in found.text
    assert (found.details["peak_bytes"], found.details["moment"]) == (1200 * MB, "backward")
    assert "in each of 2 processes" in tried(whole, whole).text


def test_a_process_that_was_killed_is_told_of_with_what_takes_less(tried, recipe) -> None:
    found = tried(record("forward"), ended=" by SIGKILL", batch_size=4, gradient_accumulation=2)
    assert found.severity == "error"
    assert found.text.startswith(
        "It does not fit. The trial was ended by SIGKILL, as the system does when memory runs out, in the backward "
        "pass. At the end of the forward pass it had held 900 MB. With the data there, 1,000 MB were free on cpu."
    )
    advice = [line.split(": ")[0].strip() for line in found.text.splitlines()[1:]]
    assert advice[0] == "--training.batch_size 2 --training.gradient_accumulation 4"
    assert "--data.max_length 150" in advice
    assert any("gradient_checkpointing" in line for line in advice) and any("quantization" in line for line in advice)
    for options in advice:  # every advice is one that the recipe takes
        parse_recipe(Recipe, shlex.split(options))


def test_what_cannot_help_is_not_advised(tried) -> None:
    found = tried(record("data"), ended=" by SIGKILL")
    assert "while the backbone was loaded" in found.text
    assert "batch_size" not in found.text and "--quantization" in found.text
    full = tried(record("forward"), method="full", batch_size=1, gradient_checkpointing=True)
    assert not any(word in full.text for word in ("quantization", "batch_size", "backend", "checkpointing"))


def test_of_several_processes_the_one_that_ran_out_of_memory_explains_the_others(tried) -> None:
    ran_out = record("forward", error="OutOfMemoryError: CUDA out of memory.", out_of_memory=True)
    lost = record("forward", error="Another of the 2 processes does not answer", out_of_memory=False)
    assert "Memory ran out in the backward pass (OutOfMemoryError" in tried(lost, ran_out).text
    assert "The trial was ended by SIGKILL" in tried(lost, record("forward"), ended=" by SIGKILL").text


def test_another_failure_is_no_matter_of_memory(tried) -> None:
    found = tried(record("data", error="KeyError: 'x'", out_of_memory=False))
    assert (found.severity, found.about) == ("error", "trial")
    assert found.text == "The trial failed while the backbone was loaded: KeyError: 'x'"
    assert "The trial was ended, before the data were there" in tried(None).text


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, is_memory: bool
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ValueError("loading failed") from error

    monkeypatch.setattr(tryout, "train", failing)
    monkeypatch.setattr(tryout, "end_with_launcher", lambda: None)
    monkeypatch.setattr(tryout, "Path", lambda path: tmp_path / "no_process" if "oom" in str(path) else Path(path))
    (tmp_path / "recipe.yaml").write_text(f"backbone: {recipe().backbone}\n")
    assert tryout.run_child(tmp_path) == 1
    assert json.loads((tmp_path / "0.json").read_text())["out_of_memory"] is is_memory


def test_a_launched_trial_that_somebody_stops_is_no_finding(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise Failed("", 130)

    monkeypatch.setattr(tryout, "launch", stopped)
    with pytest.raises(Failed):
        try_out(recipe(), 2)
