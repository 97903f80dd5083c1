"""Settings that contradict each other, the run folder, and the room on its disk."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.console import Silence
from hycam.errors import HycamError
from hycam.lock import alone
from hycam.training.preflight import Finding, log_all, settings, stop_at_errors
from hycam.training.preflight.settings import check_output, check_room, check_schedule, check_switches, room_needed
from hycam.training.preflight.settings import check_settings as settings_alone
from hycam.training.recipe import DistributedRecipe
from hycam.training.run import Run
from hycam.training.train import train


def check_settings(recipe) -> list[Finding]:
    return settings_alone(recipe) + check_switches(recipe)


def said(findings: list[Finding], severity: str) -> list[str]:
    return [one.text for one in findings if one.severity == severity]


def test_a_plain_recipe_has_nothing_to_be_said_of(recipe) -> None:
    assert check_settings(recipe()) == []
    assert check_schedule(recipe(), 6, 28) == []


@pytest.mark.parametrize(
    ("severity", "training", "message"),
    [
        ("error", {"warmup_ratio": 1.0}, "from 0 to under 1"),
        ("error", {"warmup_ratio": -0.1}, "from 0 to under 1"),
        ("warning", {"warmup_ratio": 0.6}, "rises for most of the run"),
        ("warning", {"warmup_ratio": 0.1, "scheduler": "constant"}, "Use constant_with_warmup"),
        ("warning", {"early_stopping_patience": 2, "evaluate_every": 3, "save_every": 2}, "save_every=2 does nothing"),
        ("error", {"report_to": ["tensorbord"]}, 'Did you mean "tensorboard"'),
        ("error", {"report_to": ["comet_ml"]}, "comet_ml, which is not installed"),
        ("error", {"use_liger_kernel": True}, "needs a GPU"),
        ("error", {"backend": "triton"}, 'backend "triton" does not work here'),
    ],
)
def test_a_contradiction_is_said_with_what_to_do(
    recipe, monkeypatch: pytest.MonkeyPatch, severity: str, training: dict, message: str
) -> None:
    monkeypatch.setattr("hycam.ops.dispatch.unavailable", {"triton": "there is no GPU."}.get)
    found = said(check_settings(recipe(**training)), severity)
    assert len(found) == 1
    assert re.search(message, found[0])


def test_all_that_is_wrong_is_said_at_once(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hycam.training.savings.is_bitsandbytes_available", lambda _: False)
    chosen = recipe(
        warmup_ratio=2, use_liger_kernel=True, optimizer_states="8bit", torch_compile=True, backend="recompute"
    )
    errors = said(check_settings(chosen), "error")
    assert len(errors) == 4
    with pytest.raises(HycamError) as stopped:
        stop_at_errors(check_settings(chosen))
    assert str(stopped.value).splitlines() == errors


def test_a_misspelt_method_and_setting_and_a_backend_without_hycam(recipe) -> None:
    chosen = recipe()
    chosen.method.name = "hycan"
    assert '"hycam"' in said(check_settings(chosen), "error")[0]
    chosen.method.name, chosen.method.config = "hycam", {"num_specialised": 3}
    assert '"num_specialized"' in said(check_settings(chosen), "error")[0]
    assert "the method is lora" in said(check_settings(recipe("lora", backend="recompute")), "warning")[0]


def test_what_evaluation_changes_of_the_adapter_is_looked_at_too(recipe) -> None:
    chosen = recipe()
    chosen.evaluation.config = {"routeing": "hard"}
    assert '"routing"' in said(check_settings(chosen), "error")[0]


def test_bfloat16_is_refused_on_a_gpu_without_it_and_told_of_on_a_processor_without_it(recipe, monkeypatch) -> None:
    monkeypatch.setattr(settings, "processor_flags", lambda: {"avx2"})
    assert "slower than float32" in said(check_settings(recipe(precision="bfloat16")), "warning")[0]
    monkeypatch.setattr(settings, "processor_flags", lambda: {"avx2", "amx_bf16"})
    assert check_settings(recipe(precision="bfloat16")) == []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an old card")
    assert "an old card does not have" in said(check_settings(recipe(precision="bfloat16", device="cuda")), "error")[0]


def test_packing_needs_its_package(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe()
    chosen.data.packing = True
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "hycam[trl]" in said(check_settings(chosen), "error")[0]


@pytest.mark.parametrize(
    ("training", "steps", "message"),
    [
        ({"evaluate_every": 7}, 6, "validated at the end only"),
        ({"evaluate_every": 7, "early_stopping_patience": 1}, 6, "Early stopping has nothing to go by"),
        ({"evaluate_every": 2, "early_stopping_patience": 3}, 6, "3 validations, so it never stops early"),
        ({"save_every": 7}, 6, "never a checkpoint"),
        ({"log_every": 7}, 6, "no training loss is ever logged"),
        ({"batch_size": 29}, 6, "no batch is ever full"),
    ],
)
def test_what_lies_beyond_the_last_step_is_said(recipe, training: dict, steps: int, message: str) -> None:
    found = said(check_schedule(recipe(**training), steps, 28), "warning")
    assert len(found) == 1
    assert message in found[0]
    longer = replace(recipe(**training).training, batch_size=2)
    assert check_schedule(replace(recipe(), training=longer), steps * 10, 28) == []


def test_findings_are_logged_where_a_run_goes_on_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    log_all([Finding("ok", "data", "fine"), Finding("error", "data", "half of it is gone")])
    assert [record.message for record in caplog.records] == ["half of it is gone"]


def test_what_several_processes_cannot_do_is_an_error_for_so_many_alone(recipe) -> None:
    chosen = recipe(optimizer_states="8bit", distributed=DistributedRecipe("fsdp"))
    assert not check_switches(chosen).errors
    (error,) = check_switches(chosen, processes=2).errors
    assert "training.optimizer_states=8bit does not go with training.distributed.strategy=fsdp" in error.text


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

    monkeypatch.setattr(settings.tempfile, "TemporaryFile", read_only)
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
