"""A trial trains on the largest batch only, saves nothing, and says what came of it; tests/cli runs whole ones."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from byte_tokenizer import byte_tokenizer
from hycam.console import Silence
from hycam.data.prepare import prepare
from hycam.training.launch import Failed
from hycam.training.parse import parse_recipe
from hycam.training.preflight import Finding
from hycam.training.preflight import trial as trial_module
from hycam.training.preflight.data import largest_batch
from hycam.training.preflight.trial import PHASES, Trial, try_out
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, batches_of
from hycam.training.train import train


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("plain", {"batch_size": 4, "gradient_accumulation": 3}),
        ("grouped", {"batch_size": 4, "gradient_accumulation": 1}),
        ("packed", {"batch_size": 2, "gradient_accumulation": 2}),
        ("fewer rows than a batch", {"batch_size": 100}),
    ],
)
def test_every_micro_batch_is_the_largest(
    recipe: Callable[..., Recipe], tmp_path: Path, how: str, settings: dict[str, int]
) -> None:
    chosen = recipe(**settings)
    chosen.data.packing, chosen.data.group_by_length = how == "packed", how == "grouped"
    chosen.data.mixture.strategy = "equal"
    trial = Trial(chosen, tmp_path)
    data = prepare(chosen.data, byte_tokenizer())
    rows = MixedRows(data.train)
    largest = largest_batch(chosen, data.train, AutoConfig.from_pretrained(chosen.backbone), 1)
    wanted = sorted(rows[row]["input_ids"] for row in largest)
    selected = trial.select(data)
    assert type(selected) is type(data)
    tried = MixedRows(selected.train)
    batches = batches_of(trial.recipe, tried)
    micro_batches = 0
    for epoch in range(2):
        batches.set_epoch(epoch)
        for batch in batches:
            if epoch == 0 or len(batches) == 1:  # two steps end within the first epoch, unless it has a single batch
                assert sorted(tried[row]["input_ids"] for row in batch) == wanted
                micro_batches += 1
    assert micro_batches >= 2
    assert sum(map(len, selected.validation.values())) <= chosen.evaluation.batch_size


@pytest.mark.parametrize(("method", "accumulation"), [("hycam", 2), ("full", 1)])
def test_training_notes_every_phase_and_saves_nothing(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, accumulation: int
) -> None:
    chosen = recipe(method, gradient_accumulation=accumulation, evaluate_every=1, save_every=1)
    folder = tmp_path / "trial"
    folder.mkdir()
    trial = Trial(chosen, folder)
    noted = []
    monkeypatch.setattr(trial, "at", lambda phase, at=trial.at: (noted.append(phase), at(phase)))
    summary = train(trial.recipe, Silence(), trial=trial)
    assert summary["steps"] == 2
    step = [*accumulation * ["forward", "backward"], "step"]
    assert noted == ["data", "loaded", "adapted", *step, *step, "validation"]
    record = json.loads((folder / "0.json").read_text())
    assert list(record["phases"]) == list(PHASES) and record["last"] == "validation"
    # The system counts in pages of each thread's own, so the two figures of one moment may differ a little.
    assert all(phase["peak"] > 0.9 * phase["held"] > 0 for phase in record["phases"].values())
    assert not (Path(trial.recipe.output) / "adapter").exists()
    assert not (Path(trial.recipe.output) / "model").exists()
    assert not Path(chosen.output).exists()


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

        monkeypatch.setattr(trial_module, "_in_a_process", run)
        monkeypatch.setattr(trial_module, "_launched", run)
        (found,) = try_out(recipe(**training), len(records))
        return found

    return tried


def test_what_it_takes_is_told_with_the_step_s_time(tried) -> None:
    whole = record("validation", done=True)
    found = tried(whole, gradient_accumulation=4)
    assert found.severity == "ok"
    for said in ("at most 1,200 MB, in the backward pass. With the data loaded, 1,000 MB were free",
                 "4 rows, the longest of 300", "takes 18.0 s; the run has 50"):  # fmt: skip
        assert said in found.text
    assert (found.details["peak_bytes"], found.details["moment"]) == (1200 * MB, "backward")
    assert "in each of 2 processes" in tried(whole, whole).text


def test_a_process_that_was_killed_is_told_of_with_what_takes_less(tried, recipe) -> None:
    found = tried(record("forward"), ended=" by SIGKILL", batch_size=4, gradient_accumulation=2)
    assert found.severity == "error"
    assert found.text.startswith(
        "It does not fit. The trial was ended by SIGKILL, as the system does when memory runs out, after the forward "
        "pass. It had held 900 MB by then. With the data loaded, 1,000 MB were free on cpu."
    )
    advice = [line.split(": ")[0].strip() for line in found.text.splitlines()[1:]]
    assert advice[0] == "--training.batch_size 2 --training.gradient_accumulation 4"
    assert "--data.max_length 150" in advice
    assert any("gradient_checkpointing" in line for line in advice) and any("quantization" in line for line in advice)
    for options in advice:  # every advice is one that the recipe takes
        parse_recipe(Recipe, shlex.split(options))


def test_what_cannot_help_is_not_advised(tried) -> None:
    found = tried(record("data"), ended=" by SIGKILL")
    assert "after reading the data" in found.text
    assert "batch_size" not in found.text and "--quantization" in found.text
    full = tried(record("forward"), method="full", batch_size=1, gradient_checkpointing=True)
    assert not any(word in full.text for word in ("quantization", "batch_size", "backend", "checkpointing"))


def test_of_several_processes_the_one_that_ran_out_of_memory_explains_the_others(tried) -> None:
    ran_out = record("forward", error="OutOfMemoryError: CUDA out of memory.", out_of_memory=True)
    lost = record("forward", error="Another of the 2 processes does not answer", out_of_memory=False)
    assert "Memory ran out after the forward pass (OutOfMemoryError" in tried(lost, ran_out).text
    assert "The trial was ended by SIGKILL" in tried(lost, record("forward"), ended=" by SIGKILL").text


def test_another_failure_is_no_matter_of_memory(tried) -> None:
    found = tried(record("data", error="KeyError: 'x'", out_of_memory=False))
    assert (found.severity, found.about) == ("error", "trial")
    assert found.text == "The trial failed after reading the data: KeyError: 'x'"
    assert "The trial was ended, before the data were read" in tried(None).text


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

    monkeypatch.setattr(trial_module, "train", failing)
    monkeypatch.setattr(trial_module, "end_with_launcher", lambda: None)
    monkeypatch.setattr(trial_module, "Path", lambda path: tmp_path / "none" if "oom" in str(path) else Path(path))
    (tmp_path / "recipe.yaml").write_text(f"backbone: {recipe().backbone}\n")
    assert trial_module.run_child(tmp_path) == 1
    assert json.loads((tmp_path / "0.json").read_text())["out_of_memory"] is is_memory


def test_a_launched_trial_that_somebody_stops_is_no_finding(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise Failed("", 130)

    monkeypatch.setattr(trial_module, "launch", stopped)
    with pytest.raises(Failed):
        try_out(recipe(), 2)
