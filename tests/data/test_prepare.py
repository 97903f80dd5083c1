from __future__ import annotations

import hashlib
import json
import logging
import struct
from pathlib import Path

import pytest

from hycam.data.encode import encode
from hycam.data.load import load_task
from hycam.data.prepare import PARTS, Prepared, prepare
from hycam.data.recipe import DataRecipe
from hycam.data.splits import split_fold
from hycam.errors import HycamError


def write(path: Path, rows: int = 40, response: str = "answer") -> str:
    lines = (json.dumps({"instruction": f"Ask {n}.", "input": "", "output": f"{response} {n}"}) for n in range(rows))
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "mine.jsonl")


def rows_of(prepared: Prepared) -> dict[str, list[str]]:
    return {part: list(getattr(prepared, part)["mine"]["row"]) for part in PARTS}


def test_the_parts_are_those_of_the_fold(file: str, tokenizer) -> None:
    dataset = load_task(file)
    for fold in range(5):
        split = split_fold(dataset["group"], fold, 7)
        found = rows_of(prepare(DataRecipe(tasks=[file], fold=fold, seed=7), tokenizer))
        assert found == {part: dataset.select(getattr(split, part))["row"][:] for part in PARTS}


def test_a_row_carries_its_texts_and_the_ids_of_encode(file: str, tokenizer) -> None:
    row = prepare(DataRecipe(tasks=[file]), tokenizer).test["mine"][0]
    alone = load_task(file).filter(lambda one: one["row"] == row["row"])
    assert row == encode(alone, tokenizer).dataset[0]
    assert row["response"].startswith("answer") and row["prompt"].endswith("### Response:\n")


def test_tasks_stay_in_the_order_of_the_recipe(tmp_path: Path, tokenizer) -> None:
    files = [write(tmp_path / f"{name}.jsonl") for name in ("c", "a", "b")]
    prepared = prepare(DataRecipe(tasks=files), tokenizer)
    assert all(list(getattr(prepared, part)) == ["c", "a", "b"] for part in PARTS)


def test_fewer_rows_are_always_among_more_and_only_of_the_same_part(file: str, tokenizer) -> None:
    whole = rows_of(prepare(DataRecipe(tasks=[file]), tokenizer))
    before: dict[str, set[str]] = {part: set() for part in PARTS}
    for count in (1, 2, 4):
        recipe = DataRecipe(tasks=[file], train_rows=5 * count, validation_rows=count, test_rows=count)
        found = rows_of(prepare(recipe, tokenizer))
        assert [len(found[part]) for part in PARTS] == [5 * count, count, count]
        for part in PARTS:
            assert before[part] < set(found[part]) <= set(whole[part])
            assert found[part] == [row for row in whole[part] if row in found[part]]
        before = {part: set(found[part]) for part in PARTS}


def test_asking_for_more_rows_than_there_are_gives_all(file: str, tokenizer) -> None:
    assert rows_of(prepare(DataRecipe(tasks=[file], train_rows=10**6), tokenizer)) == rows_of(
        prepare(DataRecipe(tasks=[file]), tokenizer)
    )


def test_the_fingerprint_is_the_same_for_the_same_data_and_another_for_any_change(tmp_path: Path, tokenizer) -> None:
    file = write(tmp_path / "mine.jsonl")
    first = prepare(DataRecipe(tasks=[file]), tokenizer).fingerprint
    assert prepare(DataRecipe(tasks=[file]), tokenizer).fingerprint == first
    changes = ({"fold": 1}, {"seed": 1}, {"train_rows": 27}, {"max_length": 140})
    others = [prepare(DataRecipe(tasks=[file], **change), tokenizer).fingerprint for change in changes]
    write(tmp_path / "mine.jsonl", response="Answer")
    others.append(prepare(DataRecipe(tasks=[file]), tokenizer).fingerprint)
    assert len({first, *others}) == len(others) + 1


def test_the_fingerprint_is_a_hash_of_identities_lengths_and_ids(file: str, tokenizer) -> None:
    prepared = prepare(DataRecipe(tasks=[file]), tokenizer)
    digest = hashlib.sha256()
    for part in PARTS:
        rows = getattr(prepared, part)["mine"].to_list()
        digest.update(f"{part}\0mine\0{len(rows)}\0".encode() + "\0".join(row["row"] for row in rows).encode())
        for numbers in (
            [row["prompt_length"] for row in rows],
            [len(row["input_ids"]) for row in rows],
            [token for row in rows for token in row["input_ids"]],
        ):
            digest.update(struct.pack(f"<{len(numbers)}i", *numbers))
    assert prepared.fingerprint == digest.hexdigest()


def test_one_line_a_task_is_logged_with_what_was_left_out(tmp_path: Path, tokenizer, caplog) -> None:
    files = [write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")]
    with caplog.at_level(logging.INFO, logger="hycam.data"):
        prepared = prepare(DataRecipe(tasks=files, max_length=150), tokenizer)
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["a", "b"]
    counts = prepared.counts["train"]["a"]
    assert (
        counts.shortened > 0 and f"train {counts.kept} rows" in lines[0] and f"{counts.shortened} shortened" in lines[0]
    )


def test_what_cannot_be_prepared_is_said(tmp_path: Path, tokenizer) -> None:
    mine, few = write(tmp_path / "mine.jsonl"), write(tmp_path / "few.jsonl", rows=4)
    (tmp_path / "other").mkdir()
    same_name = write(tmp_path / "other" / "mine.jsonl")
    cases = {
        "No task is named": DataRecipe(),
        "no task called": DataRecipe(tasks=["gsm9k"]),
        'Two tasks are called "mine"': DataRecipe(tasks=[mine, same_name]),
        "mine: There is no fold 5": DataRecipe(tasks=[mine], fold=5),
        "few: 4 rows in 4 groups": DataRecipe(tasks=[few]),
    }
    for said, recipe in cases.items():
        with pytest.raises(HycamError) as caught:
            prepare(recipe, tokenizer)
        assert said in str(caught.value)


def test_a_part_without_a_row_left_is_refused(tmp_path: Path, tokenizer) -> None:
    long = write(tmp_path / "long.jsonl", response="r" * 100)
    with pytest.raises(HycamError, match=r"long: no row is left in the train part.*max_length \(90\)"):
        prepare(DataRecipe(tasks=[long], max_length=90), tokenizer)


@pytest.mark.parametrize("field", ["max_length", "train_rows", "validation_rows", "test_rows"])
def test_a_number_of_rows_or_tokens_below_one_is_refused(field: str) -> None:
    with pytest.raises(HycamError, match=f"{field} is 0"):
        DataRecipe(**{field: 0})
