"""What was run: states with reasons, settings that can be read back, and warnings where cells differ in origin."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from hycam.study.plan import Plan, read_study
from hycam.study.report.page import commands, environment, settings, warnings
from hycam.study.results import Result


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
