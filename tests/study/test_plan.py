"""A study with its cells and results, and the learning rates that it takes from a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.errors import HycamError
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.study import plan as plan_module
from hycam.study.cells import Cell
from hycam.study.family import Primary
from hycam.study.plan import Plan, plan, read_study
from hycam.study.recipe import StudyMethod, StudyRecipe, SweepRecipe
from hycam.study.results import cells_folder, write
from hycam.study.sweep import RATE
from hycam.training.recipe import TrainingRecipe
from study.factory import sweep_evaluation
from study.tiny import HYCAM, LORA, pretend


@pytest.fixture
def sweep(tiny_study, tmp_path: Path) -> StudyRecipe:
    return tiny_study(output=str(tmp_path / "sweep"), sweep=SweepRecipe([1e-3, 1e-2, 1e-1], 4),
                      evaluation=sweep_evaluation())  # fmt: skip


def keep(made: Plan, nll: Callable[[Cell], float | str]) -> None:
    """Writes a result for every cell of the plan that has none."""
    for cell in made.to_go:
        write(cells_folder(made.study.output), cell, *pretend(nll)(cell, None))


def far_from(best: dict[str, float]) -> Callable[[Cell], float]:
    return lambda cell: 1.0 + abs(cell.settings[RATE] - best[cell.method])


def test_a_plan_has_the_results_that_there_are(tiny_study) -> None:
    study = tiny_study(folds=[0, 1])
    made = plan(study)
    assert (len(made.cells), len(made.to_go)) == (4, 4)
    keep(made, lambda cell: 2.0 if cell.method == "LoRA" else "failed")
    again = plan(study)
    assert [(one.method, one.fold) for one in again.results.done] == [("LoRA", 0), ("LoRA", 1)]
    assert [cell.method for cell in again.to_go] == ["HyCAM", "HyCAM"]


def test_a_sweep_grows_at_the_edge_where_its_best_is_and_then_rests(sweep: StudyRecipe) -> None:
    made = plan(sweep)
    assert len(made.cells) == 6
    best = {"LoRA": 1e-2, "HyCAM": 3e-1}
    keep(made, far_from(best))
    grown = plan(sweep)
    (new,) = grown.to_go
    assert (new.method, new.settings[RATE]) == ("HyCAM", 3e-1)
    keep(grown, far_from(best))
    rested = plan(sweep)
    assert len(rested.cells) == 7
    assert not rested.to_go  # at the edge still, and at its most trials
    assert {key[1]: one.rate for key, one in rested.best.items()} == best


def test_a_sweep_waits_for_the_trials_that_it_has_before_it_grows(sweep: StudyRecipe) -> None:
    made = plan(sweep)
    keep(made, lambda cell: "failed" if cell.settings[RATE] == 1e-2 else far_from({"LoRA": 1, "HyCAM": 1})(cell))
    again = plan(sweep)
    assert len(again.cells) == 6
    assert [cell.settings[RATE] for cell in again.to_go] == [1e-2, 1e-2]


def test_a_study_takes_the_best_rates_of_a_finished_sweep(sweep: StudyRecipe, tiny_study, in_file) -> None:
    keep(plan(sweep), far_from({"LoRA": 1e-2, "HyCAM": 1e-2}))
    methods = {**LORA, **HYCAM, "own": StudyMethod("lora", {"r": 2}, learning_rate=5e-4)}
    made = plan(tiny_study(methods=methods, learning_rates_from=in_file(sweep, "sweep.yaml")))
    assert [cell.recipe.training.learning_rate for cell in made.cells] == [1e-2, 1e-2, 5e-4]


def test_an_unfinished_sweep_is_refused_with_what_to_do(sweep: StudyRecipe, tiny_study, in_file) -> None:
    path = in_file(sweep, "sweep.yaml")
    study = tiny_study(learning_rates_from=path)
    with pytest.raises(HycamError, match=rf"sweep.yaml has 6 cells to go.*Run `hycam study {path}` first"):
        plan(study)
    keep(plan(sweep), far_from({"LoRA": 1e-2, "HyCAM": 1e-1}))
    with pytest.raises(HycamError, match="has 1 cells to go"):
        plan(study)
    reported = plan(study, to_report=True)
    assert "has 1 cells to go" in reported.waits_for
    assert reported.study == study
    assert (len(reported.cells), reported.results.done) == (2, [])
    # What has results is not reported as if it had none.
    keep(reported, lambda cell: 1.0)
    with pytest.raises(HycamError, match="has 1 cells to go"):
        plan(study, to_report=True)


def test_a_sweep_with_a_file_that_cannot_be_used_is_refused_by_its_name(sweep, tiny_study, in_file) -> None:
    made = plan(sweep)
    keep(made, far_from({"LoRA": 1e-2, "HyCAM": 1e-2}))
    broken = cells_folder(sweep.output) / made.cells[0].file_name
    broken.write_text(broken.read_text().replace('"tokens": 10000', '"tokens": "many"'))
    with pytest.raises(HycamError, match=rf"{broken.name}: its layout is not.*tokens.*Delete it"):
        plan(tiny_study(learning_rates_from=in_file(sweep, "sweep.yaml")))


def test_rates_are_not_taken_from_what_is_no_sweep_or_diverged(sweep, tiny_study, in_file) -> None:
    with pytest.raises(HycamError, match=r"plain.yaml, which is not a sweep"):
        plan(tiny_study(learning_rates_from=in_file(tiny_study(), "plain.yaml")))
    keep(plan(sweep), lambda cell: "diverged")
    keep(plan(sweep), lambda cell: "diverged")
    with pytest.raises(
        HycamError, match=r"Every learning rate that was tried for LoRA on tiny diverged, down to 0.0003"
    ):
        plan(tiny_study(learning_rates_from=in_file(sweep, "sweep.yaml")))


def test_a_kept_plan_has_the_cells_and_results_of_the_plan_that_was_made(tiny_study, tmp_path: Path) -> None:
    study = tiny_study(folds=[0, 1], vary={"data.train_rows": [2, 4]}, single_tasks=True, retention=RetentionRecipe(),
                       training=TrainingRecipe(epochs=1, learning_rate=1e-2, device="cpu"))  # fmt: skip
    made = plan_module.keep(plan(study))
    keep(made, lambda cell: 2.0 if cell.fold == 0 else "failed")
    again = plan_module.kept(study)
    assert again is not None
    assert again == replace(plan(study), counts=made.counts)
    assert [cell.resolved for cell in again.cells] == [cell.resolved for cell in made.cells]
    assert made.counts is not None and [one.rows for one in made.counts.tasks] == [20, 20]
    moved = tmp_path / "moved"
    Path(study.output).rename(moved)
    found = plan_module.kept(replace(study, output=str(moved), title="Other"))
    assert found is not None
    assert {Path(cell.recipe.output).parent for cell in found.cells} == {moved / "runs"}
    assert plan_module.kept(replace(study, output=str(moved), folds=[0])) is None  # which are other cells


def test_a_kept_plan_states_the_primary_family_and_an_older_one_has_the_default(tiny_study) -> None:
    study = tiny_study()
    plan_module.keep(plan(study))
    path = Path(study.output) / plan_module.PLAN_FILE
    content = json.loads(path.read_text())
    assert content["primary"] == {"reference": "HyCAM", "against": ["LoRA"], "settings": {}}

    def primary_of(changed: object, **changes: object) -> Primary:
        path.write_text(json.dumps({**content, "primary": changed}))
        found = plan_module.kept(replace(study, **changes))
        assert found is not None
        return found.primary

    assert primary_of({**content["primary"], "against": []}).against == []
    assert primary_of(None) == Primary("HyCAM", ["LoRA"])
    # What was stated for one reference says nothing of another.
    assert primary_of(content["primary"], reference="LoRA") == Primary("LoRA", [])
    # Another family is another study, which has to be planned anew.
    assert plan_module.kept(replace(study, primary=["LoRA"])) is None


def test_a_damaged_plan_is_refused_by_the_name_of_its_field(tiny_study) -> None:
    study = tiny_study()
    plan_module.keep(plan(study))
    path = Path(study.output) / plan_module.PLAN_FILE
    path.write_text(path.read_text().replace('"fold":0,"seed"', '"fold":"x","seed"'))
    with pytest.raises(HycamError, match=r"plan.json is not a plan.*got `str` - at `\$\.cells\[0\]\.fold`"):
        plan_module.kept(study)
    plan_module.keep(plan(study))
    assert plan_module.kept(study) is not None


def test_a_study_is_read_from_its_file_or_its_folder(tiny_study, in_file, tmp_path: Path) -> None:
    study = tiny_study(vary={"data.train_rows": [2, 4]}, folds=[1])
    path = in_file(study)
    assert read_study(path) == study
    assert read_study(tmp_path) == study
