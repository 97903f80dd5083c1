"""A trial trains on the largest batch and on nothing else, saves nothing, and notes each phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from byte_tokenizer import byte_tokenizer
from hycam.console import Silence
from hycam.data.prepare import prepare
from hycam.training.preflight.batches import batches_of, largest_batch
from hycam.training.preflight.trial import PHASES, Trial, available
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows
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


def test_a_container_may_leave_less_than_the_machine_has(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    of_machine = available(cpu, tmp_path / "none")
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        (tmp_path / "memory").mkdir(exist_ok=True)
        (tmp_path / limit).write_text("30000000\n")
        (tmp_path / used).write_text("20000000\n")
        (tmp_path / used).with_name("memory.stat").write_text(f"anon 1\n{cache} 5000000\n")
        assert available(cpu, tmp_path) == 15_000_000
        (tmp_path / limit).unlink()
    (tmp_path / "memory.max").write_text("max\n")
    assert available(cpu, tmp_path) == pytest.approx(of_machine, rel=0.2)
