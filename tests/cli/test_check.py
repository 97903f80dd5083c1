"""``hycam check``: what it prints, its status, and that it writes and loads nothing; with ``--try``, a real trial."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from hycam import backbones
from hycam.cli.main import main
from hycam.training.preflight.trial import PHASES


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
    assert not (tmp_path / "run").exists()


def test_as_json_each_finding_has_its_figures(recipe: str, capsys) -> None:
    status, found = checked(capsys, recipe)
    assert status == 0
    assert {one["severity"] for one in found} == {"ok"}
    assert {one["about"] for one in found} == {"settings", "backbone", "method", "data", "output", "disk"}
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


def test_what_the_trainer_does_not_know_is_found_and_nothing_is_tried(
    recipe: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hycam.training.preflight.trial.try_out", lambda *_: pytest.fail("it is tried"))
    status, found = checked(capsys, recipe, "--try", "--training.extra", '{"label_smoothing_factor": 0.1}')
    assert found[-1]["text"] == "Nothing was tried, because of the errors."
    assert status == 1
    assert "balance loss could not act" in found[0]["text"]
    status, found = checked(capsys, recipe, "--training.extra", '{"adam_beta": 0.1}')
    assert '"adam_beta1"' in found[0]["text"] or '"adam_beta2"' in found[0]["text"]


def test_a_trial_runs_and_shows_its_phases(recipe: str, tmp_path: Path, capsys) -> None:
    assert main(["check", recipe, "--try"]) == 0
    shown = capsys.readouterr().out
    assert "It fits: at most" in " ".join(shown.split())
    for phase in ("reading the data", "loading the backbone", "the backward pass", "validation"):
        assert phase in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
def test_a_trial_in_two_processes_has_the_phases_of_both(recipe: str, capsys) -> None:
    status, found = checked(capsys, recipe, "--try", "--launch", "2")
    assert (status, found[-1]["about"]) == (0, "memory")
    assert [phases.keys() for phases in found[-1]["details"]["processes"]] == 2 * [PHASES.keys()]


def test_a_trial_is_not_started_inside_of_a_launcher(recipe: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["check", recipe, "--try"]) == 2
    assert "--launch N" in capsys.readouterr().err


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write a script that takes the place of the trial's process."""
    script = tmp_path / "python"
    script.touch(0o755)
    monkeypatch.setattr("hycam.training.preflight.trial.sys.executable", str(script))
    return script


def test_a_trial_that_the_system_kills_ends_in_a_message(recipe: str, child: Path, capsys) -> None:
    child.write_text("#!/bin/sh\nkill -9 $$\n")
    status, found = checked(capsys, recipe, "--try")
    assert status == 1
    assert found[-1]["text"].startswith(
        "It does not fit. The trial was ended by SIGKILL, as the system does when memory runs out, before"
    )


def test_a_trial_that_is_interrupted_takes_its_process_with_it(
    recipe: str, child: Path, tmp_path: Path, capsys
) -> None:
    child.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 0.5\nkill -TERM {os.getpid()}\nexec sleep 60\n")
    assert main(["check", recipe, "--try"]) == 128 + signal.SIGTERM
    assert "hycam check: stopped." in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
