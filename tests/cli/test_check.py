"""``hycam check``: what it prints, its status, and that it writes and loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hycam import backbones
from hycam.cli.main import main


@pytest.fixture
def recipe(backbone: str, tasks: list[str], tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"backbone: {backbone}\noutput: {tmp_path / 'run'}\n"
        f"method: {{name: hycam, config: {{r: 4}}}}\ndata: {{tasks: {json.dumps(tasks)}, max_length: 300}}\n"
        "training: {max_steps: 3, learning_rate: 1e-2, device: cpu, log_every: 1}\n"
    )
    return str(path)


def checked(capsys, *arguments: str) -> tuple[int, list[dict]]:
    status = main(["check", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_recipe_in_order_is_said_to_be_and_nothing_is_loaded_or_written(
    recipe: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("weights are loaded"))
    assert main(["check", recipe]) == 0
    shown = capsys.readouterr().out
    assert "No error, 0 warnings." in shown
    for part in ("interpreter, libraries, data", "backbone", "adapter", "activations", "at most"):
        assert part in shown
    assert not (tmp_path / "run").exists()


def test_as_json_each_finding_has_its_figures_and_the_parts_add_up(recipe: str, capsys) -> None:
    status, found = checked(capsys, recipe)
    assert status == 0
    assert {one["severity"] for one in found} == {"ok"}
    assert {one["about"] for one in found} == {"settings", "backbone", "method", "data", "output", "disk", "memory"}
    (memory,) = [one["details"] for one in found if one["about"] == "memory"]
    assert sum(memory["parts"].values()) == memory["peak_bytes"]
    (method,) = [one["details"] for one in found if one["about"] == "method"]
    assert method["trained"] == 2 * (5 * (2 * 4 * 32 + 16) + 32 * 32 + 5 * 32)


def test_all_errors_come_together_with_status_1(recipe: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    status, found = checked(
        capsys, recipe, "--data.tasks", json.dumps([str(tmp_path / "bad.jsonl")]), "--output", str(tmp_path / "full"),
        "--training.warmup_ratio", "3", "--method.config", '{"target_modules": ["nothing"]}',
    )  # fmt: skip
    assert status == 1
    errors = {one["about"]: one["text"] for one in found if one["severity"] == "error"}
    assert errors.keys() == {"settings", "output", "method", "data"}
    assert "bad.jsonl" in errors["data"]
    assert "matches nothing" in errors["method"]
    assert main(["check", recipe, "--training.warmup_ratio", "3"]) == 1
    assert "1 error and 0 warnings" in capsys.readouterr().out


def test_without_a_backbone_the_data_are_looked_at_all_the_same(recipe: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    status, found = checked(
        capsys, recipe, "--backbone", str(tmp_path / "none"), "--data.tasks", json.dumps([str(tmp_path / "bad.jsonl")])
    )
    assert status == 1
    assert [one["about"] for one in found if one["severity"] == "error"] == ["backbone", "data"]


def test_a_recipe_that_does_not_parse_is_a_finding_and_a_wrong_option_wrong_usage(
    recipe: str, tmp_path: Path, capsys
) -> None:
    status, (one,) = checked(capsys, recipe, "--training.early_stopping_patience", "2")
    assert status == 1
    assert (one["about"], "needs training.evaluate_every" in one["text"]) == ("recipe", True)
    assert checked(capsys, str(tmp_path / "none.yaml"))[0] == 1
    assert main(["check", recipe, "--training.max_stepps", "2"]) == 2
    assert "training.max_steps" in capsys.readouterr().err


def test_what_the_trainer_does_not_know_is_found(recipe: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hycam.training.preflight.check.estimate", lambda *_: pytest.fail("it is not estimated"))
    status, found = checked(capsys, recipe, "--training.extra", '{"label_smoothing_factor": 0.1}')
    assert status == 1
    assert "the balance loss could not act" in found[0]["text"]
    status, found = checked(capsys, recipe, "--training.extra", '{"adam_beta": 0.1}')
    assert '"adam_beta1"' in found[0]["text"] or '"adam_beta2"' in found[0]["text"]


def test_what_does_not_fit_is_said_with_what_would_fit(recipe: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 500_000
    monkeypatch.setattr("hycam.training.preflight.memory.available", lambda device: free)
    status, found = checked(capsys, recipe)
    assert status == 1
    (memory,) = [one for one in found if one["about"] == "memory"]
    assert memory["text"].startswith("It does not fit.")
    libraries = memory["details"]["parts"]["interpreter, libraries, data"]
    assert memory["details"]["peak_bytes"] - libraries > free
    options = {one["what"]: one for one in memory["details"]["alternatives"]}
    assert options["half the batch, twice the accumulation"]["options"] == (
        "--training.batch_size 1 --training.gradient_accumulation 4"
    )
    chosen = options["gradient checkpointing"]
    assert chosen["options"] == "--training.gradient_checkpointing true"
    assert chosen["peak_bytes"] < memory["details"]["peak_bytes"]
    for one in options.values():
        assert one["fits"] == (one["peak_bytes"] - libraries <= free)
    # What is advised is what the estimate of that very recipe gives.
    free = 10**12
    _, found = checked(capsys, recipe, *chosen["options"].split())
    (with_it,) = [one["details"] for one in found if one["about"] == "memory"]
    own = with_it["peak_bytes"] - with_it["parts"]["interpreter, libraries, data"]
    assert own == pytest.approx(chosen["peak_bytes"] - libraries, rel=0.02)


def test_what_fits_only_just_is_a_warning(recipe: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = checked(capsys, recipe)
    (memory,) = [one["details"] for one in found if one["about"] == "memory"]
    own = memory["peak_bytes"] - memory["parts"]["interpreter, libraries, data"]
    monkeypatch.setattr("hycam.training.preflight.memory.available", lambda device: int(own * 1.1))
    monkeypatch.setattr("hycam.training.preflight.check.alternatives", lambda *_: [])
    status, found = checked(capsys, recipe)
    assert status == 0
    assert "That is close" in next(one["text"] for one in found if one["about"] == "memory")


def test_a_model_that_cannot_be_counted_is_told_of(recipe: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_values(*_: object) -> None:
        raise RuntimeError("aten.item")

    monkeypatch.setattr("hycam.training.preflight.check.estimate", needs_values)
    status, found = checked(capsys, recipe)
    assert status == 0
    assert "cannot be estimated" in next(one["text"] for one in found if one["severity"] == "warning")
