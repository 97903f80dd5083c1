"""What was run: states with reasons, settings that can be read back, and warnings where cells differ in origin."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from hycam.study.plan import Plan, read_study
from hycam.study.report.page import commands, environment, settings, warnings
from hycam.study.results import Result, Results
from hycam.study.status import cell_states, counted


def test_every_cell_has_its_state_with_reason_and_step(plan: Plan, tmp_path: Path) -> None:
    states = {one.cell.name: one for one in cell_states(plan)}
    assert list(states) == [cell.name for cell in plan.cells]
    assert counted(states.values()) == {
        "done": 6, "running": 0, "failed": 1, "diverged": 1, "unusable": 0, "to go": 1,
    }  # fmt: skip
    (diverged,) = (one for one in states.values() if one.state == "diverged")
    assert diverged.cell.name == "SmolLM2 135M, MultiLoRA, fold 1, seed 2333"
    assert diverged.step == 7
    assert "step 7" in diverged.reason


def test_a_file_that_cannot_be_used_is_a_state_of_its_own(plan: Plan) -> None:
    cell = plan.cells[0]
    done = [one for one in plan.results.done if one.identity != cell.identity]
    marred = replace(plan, results=Results(done, [], {Path("cells") / cell.file_name: "it cannot be read"}))
    state = cell_states(marred)[0]
    assert state.state == "unusable"
    assert "it cannot be read" in state.reason
    assert state.cell == cell


def test_settings_are_a_study_file_that_gives_the_same_study(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(settings(plan.study))
    assert read_study(file) == plan.study


def test_the_environment_counts_the_cells_with_each_value_and_several_are_warned_of(plan: Plan) -> None:
    assert warnings(environment(plan)) == []
    first = plan.results.done[0]
    described = first.content["environment"]

    def of_another(**changes: Any) -> Plan:
        other = Result({**first.content, "environment": {**described, **changes}})
        return replace(plan, results=replace(plan.results, done=[other, *plan.results.done[1:]]))

    facts = {fact.name: fact.values for fact in environment(of_another(commit="f" * 40))}
    assert facts["commit"] == [("0" * 40, 7), ("f" * 40, 1)]  # six done, one failed and one diverged
    assert "2 different commits" in " ".join(warnings(environment(of_another(commit="f" * 40))))
    assert "2 different machines" in " ".join(warnings(environment(of_another(gpu="a GPU"))))
    assert "torch" in " ".join(warnings(environment(of_another(versions={**described["versions"], "torch": "9"}))))


def test_commands_run_the_sweep_first_and_quote_names(plan: Plan) -> None:
    study = replace(plan.study, learning_rates_from="recipes/my sweep.yaml")
    found = [shlex.split(command) for command in commands(study, Path("out/report/study.yaml"))]
    assert found == [
        ["hycam", "study", "recipes/my sweep.yaml"],
        ["hycam", "study", "out/report/study.yaml"],
        ["hycam", "report", "out/report/study.yaml"],
    ]
