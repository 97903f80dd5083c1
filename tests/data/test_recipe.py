"""The data part of a recipe: what it refuses, and that it survives being written and read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from hycam.data.recipe import DataRecipe, MixtureRecipe, SplitRecipe, TaskRecipe
from hycam.errors import HycamError
from hycam.training.parse import parse_recipe
from hycam.training.recipe import Recipe

FILES = {"train": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"}

DATA = DataRecipe(
    tasks=[
        "gsm8k",
        TaskRecipe(path="mine.jsonl", columns={"instruction": "q", "response": "a"}, rows=100, turns="last"),
        TaskRecipe(
            name="talks",
            hub="someone/talks",
            subset="en",
            revision="v1",
            hub_split="train_sft",
            columns={"messages": "talk"},
            tags={"role": "who", "content": "said"},
            domain="chatter",
            split=SplitRecipe("count", validation_rows=10, test_rows=20),
        ),
        TaskRecipe(name="parts", split=SplitRecipe("files", files=FILES)),
        TaskRecipe(path="own.csv", split=SplitRecipe("column", column="part")),
    ],
    dataset_info="data",
    fold=3,
    seed=-1,
    mixture=MixtureRecipe(
        "weights", weights={"gsm8k": 1.5, "mine": 0, "talks": 1, "parts": 2, "own": 3}, exhaustion="drop"
    ),
    prompt="Q: {instruction}\nA:",
    max_length=77,
    overlong="drop",
    skip_bad_rows=True,
    packing=True,
    train_rows=5,
)


class TestWrittenAndRead:
    def parsed(self, tmp_path: Path, data: Any, *options: str) -> DataRecipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"backbone": "smollm2-135m", "data": data}))
        return parse_recipe(Recipe, [str(path), *options]).data

    @pytest.mark.parametrize("data", [DATA, DataRecipe(), DataRecipe(tasks=["gsm8k", "squad"])])
    def test_a_recipe_is_the_same_after_yaml(self, tmp_path: Path, data: DataRecipe) -> None:
        assert self.parsed(tmp_path, asdict(data)) == data

    def test_tasks_may_be_names_and_entries_side_by_side(self, tmp_path: Path) -> None:
        tasks = ["gsm8k", {"path": "a.jsonl", "split": {"by": "column", "column": "part"}}, "b.jsonl"]
        expected = ["gsm8k", TaskRecipe(path="a.jsonl", split=SplitRecipe("column", column="part")), "b.jsonl"]
        assert self.parsed(tmp_path, {"tasks": tasks}).tasks == expected
        assert self.parsed(tmp_path, {}, "--data.tasks", json.dumps(tasks)).tasks == expected

    def test_an_option_changes_what_the_file_says(self, tmp_path: Path) -> None:
        found = self.parsed(tmp_path, asdict(DATA), "--data.fold", "0", "--data.mixture.exhaustion", "stop")
        assert (found.fold, found.mixture.exhaustion, found.tasks) == (0, "stop", DATA.tasks)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"split": {"by": "count"}}, "needs split.validation_rows"),
            ({"tasks": [{"path": "a", "rows": -3}]}, "rows of a task is -3"),
            ({"mixture": {"strategy": "weights", "weights": {"a": -1}}}, "mixture.weights.a is -1"),
            ({"tasks": [{"path": "a", "split": {"by": "count", "validation_rows": 1}}]}, "needs split.test_rows"),
        ],
    )
    def test_what_a_part_refuses_is_said_in_its_own_words(self, tmp_path: Path, data: Any, words: str) -> None:
        with pytest.raises(HycamError) as caught:
            self.parsed(tmp_path, data)
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        *(
            (DataRecipe, {key: 0}, f"{key} is 0")
            for key in ("max_length", "train_rows", "validation_rows", "test_rows")
        ),
        *((TaskRecipe, {"path": "a.jsonl", "rows": rows}, f"rows of a task is {rows}") for rows in (0, -5)),
        (
            DataRecipe,
            {"overlong": "shortn"},
            'overlong is "shortn": shorten, drop were expected. Did you mean "shorten"?',
        ),
        (TaskRecipe, {"path": "a.jsonl", "turns": "first"}, 'turns of a task is "first"'),
        (DataRecipe, {"packing": True, "group_by_length": True}, "exclude each other"),
        (SplitRecipe, {"by": "cuont"}, 'split.by is "cuont": folds, disjoint, count, column, files were expected.'),
        (SplitRecipe, {"by": "count", "validation_rows": 3}, "A split by count needs split.test_rows."),
        (
            SplitRecipe,
            {"by": "count", "validation_rows": 0, "test_rows": 1},
            "split.validation_rows is 0: a number above",
        ),
        (
            SplitRecipe,
            {"by": "count", "validation_rows": 1, "test_rows": -1},
            "split.test_rows is -1: a number above 0",
        ),
        (SplitRecipe, {"by": "column"}, "A split by column needs split.column."),
        (SplitRecipe, {"by": "files"}, "A split by files needs split.files."),
        (
            SplitRecipe,
            {"by": "files", "files": {"train": "a"}},
            "split.files needs train, validation, test, and has train.",
        ),
        (SplitRecipe, {"by": "files", "files": {**FILES, "dev": "d"}}, "and has train, validation, test, dev."),
        (SplitRecipe, {"column": "part"}, "split.column has no meaning in a split by folds"),
        (
            SplitRecipe,
            {"by": "column", "column": "part", "test_rows": 5},
            "split.test_rows has no meaning in a split by col",
        ),
        (
            SplitRecipe,
            {"by": "count", "validation_rows": 1, "test_rows": 1, "files": FILES},
            "split.files has no meaning",
        ),
        (MixtureRecipe, {"strategy": "wieghts"}, 'mixture.strategy is "wieghts"'),
        (MixtureRecipe, {"exhaustion": "repeat"}, 'mixture.exhaustion is "repeat": stop, cycle, drop'),
        (MixtureRecipe, {"strategy": "weights"}, "belong together"),
        (MixtureRecipe, {"weights": {"a": 1}}, "belong together"),
        (MixtureRecipe, {"strategy": "weights", "weights": {"a": 1, "b": -0.5}}, "mixture.weights.b is -0.5"),
        (MixtureRecipe, {"strategy": "weights", "weights": {"a": float("nan")}}, "mixture.weights.a is nan"),
        (MixtureRecipe, {"strategy": "weights", "weights": {"a": 0, "b": 0.0}}, "all zero"),
        (MixtureRecipe, {"strategy": "temperature", "temperature": 0}, "mixture.temperature is 0"),
        (MixtureRecipe, {"temperature": float("inf")}, "mixture.temperature is inf"),
    ],
)
def test_what_contradicts_itself_is_refused(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(HycamError) as caught:
        kind(**settings)
    assert words in str(caught.value)


def test_weights_are_those_of_exactly_the_tasks() -> None:
    mixture = MixtureRecipe("weights", weights={"gsm8k": 1, "squad": 0})
    mixture.check_tasks(["squad", "gsm8k"])
    with pytest.raises(HycamError, match=r'"gsm8k", which is not a task\. Did you mean "gsm9k"'):
        mixture.check_tasks(["gsm9k", "squad"])
    with pytest.raises(HycamError, match="lacks mbpp, alpaca_eval; use 0"):
        mixture.check_tasks(["squad", "gsm8k", "mbpp", "alpaca_eval"])
    MixtureRecipe("equal").check_tasks(["anything"])
