"""Recipes from YAML and the command line."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from hycam.errors import HycamError, UsageError
from hycam.methods import METHODS, method
from hycam.study.recipe import StudyRecipe
from hycam.training.parse import field_names, parse_recipe
from hycam.training.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "a.yaml").write_text(text)
    return str(tmp_path / "a.yaml")


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {learning_rate: 1e-3, batch_size: 7}\ndata: {tasks: [gsm8k, mbpp]}\n")
    recipe = parse_recipe(Recipe, [path, "--training.learning_rate", "2e-4", "--method.config.r", "8"])
    assert recipe.training.learning_rate == 2e-4
    assert recipe.training.batch_size == 7
    assert recipe.training.gradient_accumulation == 2
    assert recipe.data.tasks == ["gsm8k", "mbpp"]
    assert recipe.method.config == {"r": 8}


def test_a_label_of_a_study_can_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, "methods:\n  mine: {name: hycam, learning_rate: 1e-3}\n")
    study = parse_recipe(StudyRecipe, [path, "--methods.mine.learning_rate", "3e-3"])
    assert study.methods["mine"].learning_rate == 3e-3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "training: {learnin_rate: 1}",
            r'a\.yaml has an unknown field "training.learnin_rate".*"training.learning_rate"',
        ),
        ("backbon: x", r'unknown field "backbon".*"backbone"'),
        ("a: b: c", r"a\.yaml:1:5 is not YAML"),
        ("just words", "holds no recipe"),
        ("training: {precision: fp8}", "training.precision.*float32.*fp8"),
        ("training: {epochs: many}", "training.epochs.*float.*many"),
        ("training: {batch_size: 0}", "training.batch_size is 0"),
        ("training: {early_stopping_patience: 3}", "needs training.evaluate_every"),
        ("data: {max_length: -1}", "max_length is -1"),
        ("evaluation: {batch_size: 0}", "evaluation.batch_size is 0"),
    ],
)
def test_a_wrong_file_is_explained(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(HycamError, match=expected):
        parse_recipe(Recipe, [write(tmp_path, text)])


def test_a_misspelt_field_of_a_label_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "methods:\n  mine: {name: hycam, learnin_rate: 1}\n")
    for arguments in ([path], ["--methods.mine.name", "lora", "--methods.mine.learnin_rate", "1"]):
        with pytest.raises(HycamError, match=r'unknown field "(methods\.mine\.)?learnin_rate".*learning_rate"'):
            parse_recipe(StudyRecipe, arguments)


def test_a_misspelt_field_below_a_label_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "methods:\n  mine: {name: lora, optimizer: {dampin: 1}}\n")
    with pytest.raises(HycamError, match=r'"methods\.mine\.optimizer\.dampin".*"methods\.\*\.optimizer\.damping"'):
        parse_recipe(StudyRecipe, [path])


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(HycamError, match=r'no recipe .*b\.yaml.*"a\.yaml"'):
        parse_recipe(Recipe, [str(tmp_path / "b.yaml")])


def test_a_misspelt_option_is_wrong_usage_and_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'no option --training.lerning_rate.*"training.learning_rate"'):
        parse_recipe(Recipe, ["--training.lerning_rate", "1"])


def test_help_shows_every_field_with_its_meaning(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(Recipe, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name in field_names(Recipe):
        assert "[]." in name or f"--{name}" in shown  # what stands in a list has no option of its own
    assert "Which of the five folds" in shown


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_read(path: Path) -> None:
    text = path.read_text()
    kind = StudyRecipe if "\ntitle:" in text else Recipe
    assert parse_recipe(kind, [str(path)]).data.tasks
    verbs = ("study", "report") if kind is StudyRecipe else ("train",)
    commands = [f"hycam {verb} recipes/{path.relative_to(RECIPES)}" for verb in verbs]
    assert any(command in text for command in commands), "a recipe says which command it is for"


def test_the_papers_recipe_has_the_papers_settings() -> None:
    recipe = parse_recipe(Recipe, [str(RECIPES / "paper" / "base.yaml")])
    training = recipe.training
    assert (training.learning_rate, training.weight_decay, training.scheduler) == (2e-5, 0.05, "cosine")
    assert (training.batch_size, training.gradient_accumulation, training.seed) == (2, 2, 2333)
    assert training.early_stopping_patience is not None
    assert recipe.data.max_length == 1200
    config = method(recipe.method.name).config(recipe.method.config)
    assert (config.num_specialized, config.r, config.temperature, config.balance_weight) == (5, 64, 0.5, 0.1)


@pytest.mark.parametrize("name", METHODS)
def test_the_papers_recipe_takes_every_method_by_its_name_alone(name: str) -> None:
    recipe = parse_recipe(Recipe, [str(RECIPES / "paper" / "base.yaml"), "--method.name", name])
    assert recipe.method.settings().preconditioned == name.startswith("riemoe")


def test_a_misspelt_field_in_an_entry_of_a_list_is_named_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  tasks:\n    - gsm8k\n    - {pth: a.jsonl}\n")
    with pytest.raises(HycamError, match=r'"data\.tasks\[1\]\.pth"\. Did you mean "data\.tasks\.path"'):
        parse_recipe(Recipe, [path])
    path = write(tmp_path, "data:\n  tasks:\n    - {path: a.jsonl, split: {bye: column}}\n")
    with pytest.raises(HycamError, match=r'"data\.tasks\[0\]\.split\.bye"\. Did you mean "data\.tasks\.split\.by"'):
        parse_recipe(Recipe, [path])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("rows: many", r"data\.tasks\.rows has a wrong value: expected int, got many"),
        ("turns: some", r"data\.tasks\.turns has a wrong value: expected Literal\['all', 'last'\], got some"),
        ("split: {by: cont}", r"data\.tasks\.split\.by has a wrong value: .*'folds'.*got cont"),
        ("columns: [a]", r"data\.tasks\.columns has a wrong value: expected dict, got \['a'\]"),
        ("split: {by: column}", r"^A split by column needs split"),
        ("rows: 0", r"^rows of a task is 0"),
    ],
)
def test_what_is_wrong_in_an_entry_of_a_list_is_said_in_one_line(tmp_path: Path, entry: str, said: str) -> None:
    path = write(tmp_path, f"data:\n  tasks:\n    - path: a.jsonl\n      {entry}\n")
    with pytest.raises(HycamError, match=said) as caught:
        parse_recipe(Recipe, [path])
    assert "\n" not in str(caught.value)


def test_a_task_with_settings_is_read_and_written_and_read_again(tmp_path: Path) -> None:
    entry = (
        "{path: a.csv, columns: {instruction: q, response: a}, split: {by: count, test_rows: 1, validation_rows: 2}}"
    )
    recipe = parse_recipe(Recipe, [write(tmp_path, f"data:\n  tasks:\n    - gsm8k\n    - {entry}\n")])
    name, own = recipe.data.tasks
    assert name == "gsm8k" and own.columns == {"instruction": "q", "response": "a"} and own.split.validation_rows == 2
    again = parse_recipe(Recipe, [write(tmp_path, yaml.safe_dump(asdict(recipe)))])
    assert again == recipe


SPEC = {"class_path": "os.mkdir", "init_args": {"path": "MARK"}}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (Recipe, {"method": {"config": {"a": SPEC}}}),
        (Recipe, {"method": {"config": SPEC}}),
        (Recipe, {"method": {"config": {"a": [SPEC]}}}),
        (Recipe, {"training": {"extra": {"a": SPEC}}}),
        (Recipe, {"training": {"extra": SPEC}}),
        (Recipe, {"evaluation": {"config": {"a": SPEC}}}),
        (Recipe, {"data": {"tasks": [SPEC]}}),
        (Recipe, {"data": {"tasks": [{"path": SPEC}]}}),
        (Recipe, {"data": SPEC}),
        (StudyRecipe, {"vary": {"a": [SPEC]}}),
        (StudyRecipe, {"methods": {"a": SPEC}}),
        (StudyRecipe, {"methods": {"a": {"name": "lora", "config": {"b": SPEC}}}}),
    ],
)
def test_a_recipe_cannot_name_code_to_run(tmp_path: Path, kind: type, content: dict) -> None:
    """jsonargparse takes a class_path for something to import and call, wherever a field may hold anything."""
    mark, module = tmp_path / "mark", tmp_path / "planted_module.py"
    module.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    for named in ("os.mkdir", "planted_module.Class"):
        text = json.dumps(content).replace("MARK", str(mark)).replace("os.mkdir", named)
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as path:
            path.syspath_prepend(str(tmp_path))
            try:
                parse_recipe(kind, [str(tmp_path / "recipe.yaml")])
            except HycamError as error:
                assert str(error)
        assert not mark.exists() and not (tmp_path / "imported").exists()


def test_an_option_cannot_name_code_to_run_either(tmp_path: Path) -> None:
    given = json.dumps(SPEC).replace("MARK", str(tmp_path / "mark"))
    for words in (["--method.config", given], ["--method.config", f'{{"a": {given}}}'], ["--training.extra.a", given],
                  ["--method.config.a.class_path", "os.mkdir"]):  # fmt: skip
        with suppress(HycamError):
            parse_recipe(Recipe, words)
        assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        (Recipe, {"data": {"mixture": "equal"}}, r"data\.mixture has fields of its own \(exhaustion, strategy, "),
        (Recipe, {"training": 3}, r"training has fields of its own"),
        (Recipe, {"training": None}, "training is null: leave it out"),
        (Recipe, {"training": {"extra": None}}, r"training\.extra is null"),
        (Recipe, {"data": {"tasks": None}}, r"data\.tasks is null"),
        (Recipe, {"data": {"tasks": [{"path": "a.jsonl", "columns": None}]}}, r"data\.tasks\[0\]\.columns is null"),
        (StudyRecipe, {"methods": None}, "methods is null"),
        (StudyRecipe, {"methods": {"a": "lora"}}, r"methods\.a has fields of its own"),
        (StudyRecipe, {"executor": "ray"}, r"such as `executor: {name: \.\.\.}`"),
    ],
)
def test_a_value_where_a_group_or_a_list_was_expected_is_told_by_its_name(
    tmp_path: Path, kind: type, content: dict, told: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    with pytest.raises(HycamError, match=told):
        parse_recipe(kind, [str(tmp_path / "recipe.yaml")])


def test_a_value_for_a_group_on_the_command_line_is_told_with_its_fields() -> None:
    with pytest.raises(HycamError, match=r"^data\.mixture has fields of its own \(exhaustion, strategy, "):
        parse_recipe(Recipe, ["--data.mixture", "equal"])


def test_a_null_where_a_field_may_be_null_stays(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"training": {"max_steps": None}, "data": {"dataset_info": None}}))
    assert parse_recipe(Recipe, [str(tmp_path / "recipe.yaml")]).training.max_steps is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 3000, "is not YAML"),
        ("a: &a [*a]", "unknown field|is not YAML"),
        ("seed: 2020-99-99", "is not YAML: month must be in"),
        ("seed: " + "9" * 5000, "is not YAML"),
        ("seed: !!bool x", "is not YAML"),
        ("seed: !!python/object/apply:os.mkdir [planted]", "is not YAML: could not determine a constructor"),
        ("? [a, b]\n: 1", "unknown field|is not YAML"),
        ("a: \0", "is not YAML"),
    ],
)  # fmt: skip
def test_what_is_not_yaml_is_refused(tmp_path: Path, text: str, told: str) -> None:
    for kind in (Recipe, StudyRecipe):
        with pytest.raises(HycamError, match=told):
            parse_recipe(kind, [write(tmp_path, text)])


def test_an_alias_stays(tmp_path: Path) -> None:
    text = "method: {config: &same {r: 4}}\nevaluation: {config: *same}"
    assert parse_recipe(Recipe, [write(tmp_path, text)]).evaluation.config == {"r": 4}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {mixture: {strategy: weights, weights: {1e5: 1}}}", r"data\.mixture\.weights has 100000\.0 as a name"),
        ("method: {config: {1: 2}}", r"method\.config has 1 as a name, which is not text: put it in quotes"),
        ("training: {extra: {null: 2}}", r"training\.extra has None as a name"),
    ],
)
def test_a_name_that_is_no_text_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(HycamError, match=told):
        parse_recipe(Recipe, [write(tmp_path, text)])
    with pytest.raises(HycamError, match="methods has 7 as a name"):
        parse_recipe(StudyRecipe, [write(tmp_path, "methods: {7: {name: lora}}")])


def test_a_number_beyond_any_reckoning_is_told(tmp_path: Path) -> None:
    for text in ("training: {epochs: 1%s}", "method: {optimizer: {multipliers: {hycam_B: 1%s}}}"):
        with pytest.raises(HycamError, match=r"a\.yaml has a number that is too large"):
            parse_recipe(Recipe, [write(tmp_path, text % ("0" * 400))])
    with pytest.raises(HycamError, match="too large"):
        parse_recipe(Recipe, ["--training.epochs", "1" + "0" * 400])


TWICE = "training: {learning_rate: 1e-3}\ndata: {fold: 1}\ntraining:\n  batch_size: 7\n"


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Recipe, TWICE, r'a\.yaml has the key "training" twice, on lines 1 and 3'),
        (StudyRecipe, TWICE, r'a\.yaml has the key "training" twice, on lines 1 and 3'),
        (Recipe, 'data: {}\n"data": {fold: 1}\n', '"data" twice, on lines 1 and 2'),
        (Recipe, "training:\n  batch_size: 2\n  epochs: 1\n  batch_size: 3\n", '"batch_size" twice, on lines 2 and 4'),
        (Recipe, "data:\n  tasks:\n  - path: a\n    rows: 1\n    path: b\n", '"path" twice, on lines 3 and 5'),
        (Recipe, "method: {config: {r: 8, r: 16}}", '"r" twice, on line 1'),
        (StudyRecipe, "vary:\n  training.seed: [1]\n  training.seed: [2]\n", '"training.seed" twice, on lines 2 and 3'),
        (StudyRecipe, "methods:\n  a: {name: lora}\n  a: {name: hycam}\n", '"a" twice, on lines 2 and 3'),
        (Recipe, "training:\n  extra: {1: a, 0x1: b}\n", '"0x1" twice, on line 2'),
        (Recipe, "a: &a {x: 1}\nb: &b {x: 2}\ntraining:\n  <<: *a\n  <<: *b\n", '"<<" twice, on lines 4 and 5'),
    ],
)
def test_a_key_that_a_file_has_twice_is_named_with_both_lines(kind, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(HycamError, match=said):
        parse_recipe(kind, [write(tmp_path, text)])


def test_every_recipe_on_the_command_line_is_checked(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(TWICE)
    first = write(tmp_path, "data: {fold: 1}\n")
    for further in (["--recipe", f"{tmp_path}/b.yaml"], [f"--recipe={tmp_path}/b.yaml"]):
        with pytest.raises(HycamError, match=r'b\.yaml has the key "training" twice, on lines 1 and 3'):
            parse_recipe(Recipe, [first, *further])


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (Recipe, "--method.config", "{r: 8, r: 16}"),
        (Recipe, "--method.config", '{"r": 8, "r": 16}'),
        (Recipe, "--training", "{batch_size: 2, batch_size: 3}"),
        (Recipe, "--data.split", "{by: folds, by: count}"),
        (Recipe, "--data.tasks", "[{path: a, path: b}]"),
        (StudyRecipe, "--methods", "{a: {name: lora}, a: {name: hycam}}"),
        (StudyRecipe, "--methods.a.config", "{r: 8, r: 16}"),
        (StudyRecipe, "--vary", "{training.seed: [1], training.seed: [2]}"),
    ],
)
def test_a_key_that_an_option_has_twice_is_named(kind: type, option: str, value: str) -> None:
    with pytest.raises(HycamError, match=r'has the key "[\w.]+" twice, on line 1, and only the last would count'):
        parse_recipe(kind, [option, value])


def test_a_key_that_a_merge_brings_may_be_overridden(tmp_path: Path) -> None:
    shared = "mine: &mine {name: lora, learning_rate: 1e-3}\n  other: {<<: *mine, learning_rate: 3e-3}\n"
    path = write(tmp_path, f"methods:\n  {shared}  third: {{<<: [*mine, *mine], name: hycam}}\n")
    methods = parse_recipe(StudyRecipe, [path]).methods
    assert [methods[name].learning_rate for name in ("mine", "other", "third")] == [1e-3, 3e-3, 1e-3]
    assert [methods[name].name for name in ("mine", "other", "third")] == ["lora", "lora", "hycam"]


@pytest.mark.parametrize(
    "text", ["Q: {instruction}\nQ: why?", "{a: 1, a: 2} {instruction}", "{a: {instruction}, a: 1}"]
)
def test_text_that_looks_like_a_key_twice_stays_text(text: str, tmp_path: Path) -> None:
    assert parse_recipe(Recipe, ["--data.prompt", text]).data.prompt == text
    path = write(tmp_path, yaml.safe_dump({"data": {"prompt": text}}))
    assert parse_recipe(Recipe, [path]).data.prompt == text
