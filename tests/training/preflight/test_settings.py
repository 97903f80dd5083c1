"""Settings that contradict each other, each with what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hycam.errors import HycamError
from hycam.training.preflight import Finding, log_all, stop_at_errors
from hycam.training.preflight.settings import check_schedule, check_switches
from hycam.training.preflight.settings import check_settings as settings_alone
from hycam.training.recipe import DistributedRecipe


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
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert "slower than float32" in said(check_settings(recipe(precision="bfloat16")), "warning")[0]
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
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
