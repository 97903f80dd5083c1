"""What a study may vary, and what a field's values become."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from hycam.errors import HycamError
from hycam.study.grid import vary_values, with_setting
from hycam.training.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("training.learning_rate", ["1e-4", 1], [1e-4, 1.0]),
        ("data.train_rows", [32, None], [32, None]),
        ("evaluation.part", ["validation"], ["validation"]),
        ("data.tasks", [["dolly"], ["dolly", "webgpt"]], [["dolly"], ["dolly", "webgpt"]]),
        ("method.config.num_specialized", [1, 5], [1, 5]),
        ("method.optimizer.multipliers.hycam_B", [3.0], [3.0]),
        ("evaluation.config", [{"routing": "hard"}], [{"routing": "hard"}]),
        ("training.extra.adam_beta1", [0.8], [0.8]),
    ],
)
def test_values_are_taken_with_the_type_of_their_field(name: str, given: list, taken: list) -> None:
    (found,) = vary_values({name: given}).values()
    assert found == taken
    assert list(map(type, found)) == list(map(type, taken))


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"training.learning_rat": [1]}, r'not a recipe field\. Did you mean "training.learning_rate"\?'),
        ({"data.train_row": [1]}, r'Did you mean "data.train_rows"\?'),
        ({"data.train_rows": ["many"]}, r"vary.data.train_rows has the value 'many': int \| None was expected"),
        ({"training.max_steps": [2.5]}, r"value 2\.5: int \| None was expected"),
        ({"evaluation.part": ["tset"]}, r"value 'tset': Literal\['test', 'validation'\] was expected"),
        ({"data.fold": [0, 1]}, "the study has folds for it"),
        ({"training.seed": [1]}, "the study has seeds for it"),
        ({"method.name": ["lora"]}, "the study has methods for it"),
        ({"backbone": ["x"]}, "the study has backbones for it"),
        ({"output": ["x"]}, "not a recipe field"),
        (
            {"data.mixture": [{"strategy": "equal"}]},
            r"has fields of its own: vary one of them, such as data\.mixture\.",
        ),
        ({"data.tasks": [[{"path": "a.jsonl"}]]}, "cannot vary entries with settings of their own"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(vary: dict, said: str) -> None:
    with pytest.raises(HycamError, match=said):
        vary_values(vary)


def test_a_setting_changes_its_own_field_of_a_copy() -> None:
    recipe = Recipe()
    before = asdict(recipe)
    changed = with_setting(recipe, "training.extra.adam_beta1", 0.8)
    changed = with_setting(changed, "method.config.r", 8)
    changed = with_setting(changed, "data.train_rows", 32)
    assert (changed.training.extra, changed.method.config) == ({"adam_beta1": 0.8}, {"r": 8})
    assert changed.data.train_rows == 32
    assert asdict(recipe) == before


def test_a_value_that_the_recipe_itself_refuses_is_refused() -> None:
    with pytest.raises(HycamError, match="train_rows is 0"):
        with_setting(Recipe(), "data.train_rows", 0)
