"""Which comparisons a study states as its question."""

from __future__ import annotations

import pytest

from hycam.errors import HycamError
from hycam.study.family import PRIMARY, SECONDARY, Primary, peft_baselines
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod
from hycam.study.significance import MACRO
from study.factory import METHODS, plan_of, study_of


def stated(**changes: object) -> Plan:
    return plan_of(study_of(**changes), lambda cell: None)


def test_peft_baselines_are_the_adapters_that_are_not_hycam() -> None:
    names = {"a": "base", "b": "full", "c": "lora-matched", "d": "moe-lora", "e": "hycam", "f": "hycam-speconly"}
    study = study_of({label: StudyMethod(name) for label, name in names.items()})
    study.methods["g"] = StudyMethod("peft", {"peft_type": "IA3"}, 1e-3)
    assert peft_baselines(study) == ["c", "d", "g"]


def test_the_family_is_the_reference_against_the_peft_baselines_unless_the_study_says_otherwise() -> None:
    assert stated().primary == Primary("HyCAM", ["LoRA", "MultiLoRA", "RieMoE-LoRA"])
    assert stated(primary=["Full Finetune"]).primary == Primary("HyCAM", ["Full Finetune"])
    assert stated(primary=[]).primary == Primary("HyCAM", [])
    assert stated(reference="LoRA").primary == Primary("LoRA", ["MultiLoRA", "RieMoE-LoRA"])
    assert stated(methods=("LoRA", "MultiLoRA")).primary == Primary("LoRA", ["MultiLoRA"])  # HyCAM is not there


def test_of_varied_settings_the_first_are_primary() -> None:
    primary = stated(vary={"data.train_rows": [32, 8], "training.epochs": [2, 1]}).primary
    assert primary.settings == {"data.train_rows": 32, "training.epochs": 2}
    assert primary.family("HyCAM", "LoRA", MACRO, {"data.train_rows": 32, "training.epochs": 2}) == PRIMARY
    assert primary.family("HyCAM", "LoRA", MACRO, {"data.train_rows": 8, "training.epochs": 2}) == SECONDARY


@pytest.mark.parametrize(
    ("method", "against", "task"), [("HyCAM", "LoRA", "dolly"), ("HyCAM", "Base", MACRO), ("MultiLoRA", "LoRA", MACRO)]
)
def test_single_tasks_other_methods_and_another_reference_are_secondary(method: str, against: str, task: str) -> None:
    assert stated().primary.family(method, against, task, {}) == SECONDARY


@pytest.mark.parametrize(("label", "hint"), [("MultiLora", 'Did you mean "MultiLoRA"?'), ("HyCAM", "")])
def test_a_label_that_the_reference_cannot_be_compared_with_is_refused(label: str, hint: str) -> None:
    with pytest.raises(HycamError, match=f'primary names "{label}"') as refused:
        study_of(tuple(METHODS), primary=[label])
    assert hint in str(refused.value)
