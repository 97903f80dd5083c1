from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import struct
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import hycam.data.prepare
from byte_tokenizer import byte_tokenizer
from hycam.data.encode import encode
from hycam.data.load import load_task
from hycam.data.partition import split_fold
from hycam.data.prepare import Prepared, prepare
from hycam.data.prompts import Form
from hycam.data.recipe import PARTS, DataRecipe, SplitRecipe, TaskRecipe
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
        split = split_fold(dataset["group"][:], fold, 7)
        found = rows_of(prepare(DataRecipe(tasks=[file], fold=fold, seed=7), tokenizer))
        assert found == {part: dataset.select(getattr(split, part))["row"][:] for part in PARTS}


def test_a_row_carries_its_texts_and_the_ids_of_encode(file: str, tokenizer) -> None:
    row = prepare(DataRecipe(tasks=[file]), tokenizer).test["mine"][0]
    number = int(row["row"].split(":")[1]) - 1
    assert row == {**encode(load_task(file).select([number]), tokenizer).dataset[0], "index": number}
    assert row["response"].startswith("answer") and row["prompt"].endswith("### Response:\n")


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


def test_one_line_a_task_is_logged_with_the_counts(tmp_path: Path, tokenizer, caplog) -> None:
    files = [write(tmp_path / f"{name}.jsonl") for name in "cab"]
    with caplog.at_level(logging.INFO, logger="hycam.data"):
        prepared = prepare(DataRecipe(tasks=files, max_length=150), tokenizer)
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == list("cab")
    assert all(list(getattr(prepared, part)) == list("cab") for part in PARTS)  # in the order of the recipe
    counts = prepared.counts["train"]["c"]
    assert (
        counts.shortened > 0 and f"train {counts.kept} rows" in lines[0] and f"{counts.shortened} shortened" in lines[0]
    )


def test_a_part_without_a_row_left_is_refused(tmp_path: Path, tokenizer) -> None:
    long = write(tmp_path / "long.jsonl", response="r" * 100)
    with pytest.raises(HycamError, match=r"long: no row is left in the train part.*max_length \(90\)"):
        prepare(DataRecipe(tasks=[long], max_length=90), tokenizer)


class TestCache:
    """A part of which all rows are wanted is tokenised once, and comes out as if it had been tokenised now."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("hycam.data.cache.cache_folder", lambda: tmp_path / "cache")
        return tmp_path / "cache"

    @staticmethod
    def entries(cache: Path) -> int:
        return len([*cache.glob("data/*/tokens.arrow")])

    def test_parts_are_those_encoded_in_memory(self, tmp_path: Path, tokenizer) -> None:
        rows = [
            {"messages": [{"role": role, "content": f"{role} {n} {turn}" * (1 + n % 9)} for turn in range(1 + n % 3)
             for role in ("user", "assistant")]}
            for n in range(60)
        ]  # fmt: skip
        (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
        entry = TaskRecipe(path=str(tmp_path / "talks.jsonl"), turns="last")
        recipe = DataRecipe(tasks=[entry], max_length=400, overlong="drop", prompt="Q{instruction}A", fold=2)
        dataset = load_task(str(tmp_path / "talks.jsonl"))
        split = split_fold(dataset["group"][:], 2, recipe.seed)
        for _ in range(2):  # made, and found
            prepared = prepare(recipe, tokenizer)
            for part in PARTS:
                wanted = getattr(split, part)
                encoded = encode(dataset.select(wanted), tokenizer, Form("Q{instruction}A", 400, "drop", "last"))
                expected = [{**row, "index": wanted[row["index"]]} for row in encoded.dataset]
                assert getattr(prepared, part)["talks"].to_list() == expected
                assert prepared.counts[part]["talks"] == encoded.counts
        assert sum(prepared.counts[part]["talks"].dropped for part in PARTS) > 0

    def test_all_folds_seeds_and_ways_of_splitting_share_one_entry(self, file: str, tokenizer, cache: Path) -> None:
        told: list[tuple[str, int, int]] = []
        for fold in range(5):
            prepare(DataRecipe(tasks=[file], fold=fold), tokenizer, lambda *done: told.append(done))
        prepare(DataRecipe(tasks=[file], seed=5), tokenizer)
        prepare(DataRecipe(tasks=[file], split=SplitRecipe("count", validation_rows=3, test_rows=4)), tokenizer)
        prepare(DataRecipe(tasks=[file], train_rows=3), tokenizer)
        assert self.entries(cache) == 1
        assert told == [("tokenising mine", 40, 40)]  # by the first of them

    def test_another_entry_is_made_for_what_changes_the_tokens(self, file: str, tokenizer, cache: Path) -> None:
        def chat() -> PreTrainedTokenizerFast:
            other = byte_tokenizer("<s> $A </s>")
            other.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
            return other

        ways: list[tuple[DataRecipe, PreTrainedTokenizerFast]] = [
            (DataRecipe(tasks=[file]), tokenizer),
            (DataRecipe(tasks=[file]), chat()),
            (DataRecipe(tasks=[file], prompt="chat"), chat()),
            (DataRecipe(tasks=[file], prompt="paper"), tokenizer),
            (DataRecipe(tasks=[file], max_length=1199), tokenizer),
            (DataRecipe(tasks=[file], overlong="drop"), tokenizer),
            (DataRecipe(tasks=[file], skip_bad_rows=True), tokenizer),
            (DataRecipe(tasks=[TaskRecipe(path=file, turns="last")]), tokenizer),
            (DataRecipe(tasks=[TaskRecipe(path=file, rows=30)]), tokenizer),
        ]
        for number, (recipe, words) in enumerate(ways, 1):
            for _ in range(2):
                prepare(recipe, words)
                assert self.entries(cache) == number

    def test_the_fingerprint_does_not_depend_on_where_tokens_come_from(
        self, file: str, tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = DataRecipe(tasks=[file])
        first, second = prepare(recipe, tokenizer).fingerprint, prepare(recipe, tokenizer).fingerprint
        assert self.entries(cache) == 1
        shutil.rmtree(cache)
        monkeypatch.setattr("hycam.data.encode._ROWS_AT_ONCE", 7)  # other batches on the disk
        assert first == second == prepare(recipe, tokenizer).fingerprint
        # All rows asked for by their number are tokenised anew, in memory, where that is fewer than there are.
        some = DataRecipe(tasks=[file], train_rows=27)
        assert prepare(some, tokenizer).fingerprint == prepare(some, tokenizer).fingerprint != first


def test_rows_that_do_not_fit_make_room_for_the_next_ones(tmp_path: Path, tokenizer) -> None:
    rows = [{"instruction": f"Ask {n}.", "output": "r" * (500 if n % 3 else 5)} for n in range(90)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = str(tmp_path / "mine.jsonl")
    split = split_fold(load_task(file)["group"][:], 0, 2333)
    names = {row: f"mine.jsonl:{row + 1}" for row in range(90)}
    before: set[str] = set()
    for limit in (1, 4, 9, 15):
        recipe = DataRecipe(tasks=[file], train_rows=limit, max_length=200)
        prepared = prepare(recipe, tokenizer)
        found = prepared.train["mine"]["row"][:]
        order = sorted(split.train, key=lambda row: hashlib.sha256(f"2333\0{names[row]}".encode()).digest())
        fitting = [row for row in order if row % 3 == 0]
        assert found == [names[row] for row in sorted(fitting[:limit])]
        tried = order.index(fitting[limit - 1]) + 1
        counts = prepared.counts["train"]["mine"]
        assert (counts.rows, counts.kept, counts.dropped) == (tried, limit, tried - limit)
        assert before < set(found)
        before = set(found)


def test_a_prompt_that_cannot_be_made_is_refused_before_anything_is_read(tokenizer) -> None:
    for prompt, said in (("alpca", 'Did you mean "alpaca"'), ("chat", "needs a chat template")):
        with pytest.raises(HycamError, match=said):
            prepare(DataRecipe(tasks=["nowhere/mine.jsonl"], prompt=prompt), tokenizer)


@pytest.mark.parametrize("max_length", [1200, 165])
def test_few_rows_tokenised_by_themselves_are_those_taken_out_of_all(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, max_length: int
) -> None:
    long = [{"instruction": f"Ask {n}.", "input": "", "output": "r" * (40 * (n % 5))} for n in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in long))
    recipe = DataRecipe(tasks=[str(tmp_path / "mine.jsonl")], max_length=max_length, train_rows=9, test_rows=2)
    few = prepare(recipe, tokenizer)
    monkeypatch.setattr(hycam.data.prepare, "_FEW", 0)
    many = prepare(recipe, tokenizer)
    assert (few.fingerprint, few.counts) == (many.fingerprint, many.counts)
    assert few.counts["train"]["mine"].dropped > 0 or max_length == 1200
    for part in PARTS:
        assert getattr(few, part)["mine"].to_list() == getattr(many, part)["mine"].to_list()


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system text.') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TestRowsThatTheTemplateRefuses:
    """As Gemma's template refuses a system text: they are malformed rows like those of a broken line."""

    @pytest.fixture
    def refusing(self) -> PreTrainedTokenizerFast:
        tokenizer = byte_tokenizer("<s> $A")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = NO_SYSTEM
        return tokenizer

    @pytest.fixture
    def mixed(self, tmp_path: Path) -> str:
        path = tmp_path / "mine.jsonl"
        rows = [{"instruction": f"Ask {n}.", "output": f"{n}", "system": "" if n % 4 else "brief"} for n in range(40)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    def test_end_a_run(self, mixed: str, refusing) -> None:
        with pytest.raises(HycamError, match=r"^mine\.jsonl:1: .*No system text"):
            prepare(DataRecipe(tasks=[mixed], prompt="chat"), refusing)

    @pytest.mark.parametrize("limits", [{}, {"train_rows": 12, "validation_rows": 4, "test_rows": 2}, {"test_rows": 1}])
    def test_are_skipped_and_counted_with_skip_bad_rows(self, mixed: str, refusing, limits: dict, caplog) -> None:
        bad = {f"mine.jsonl:{n + 1}" for n in range(0, 40, 4)}
        parts = rows_of(prepare(DataRecipe(tasks=[mixed]), refusing))
        recipe = DataRecipe(tasks=[mixed], prompt="chat", skip_bad_rows=True, **limits)
        for _ in range(2):  # the second time out of the cache
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                prepared = prepare(recipe, refusing)
            counts = [prepared.counts[part]["mine"] for part in PARTS]
            assert all(one.rows == one.kept + one.bad and not one.dropped for one in counts)
            (told,) = caplog.messages
            total = sum(one.bad for one in counts)
            assert re.match(rf"mine: {total} malformed rows skipped; the first: (mine\.jsonl:\d+): ", told)
        for part, found in rows_of(prepared).items():
            good = [row for row in parts[part] if row not in bad]
            assert found == good if not limits else set(found) <= set(good)
            assert len(found) == limits.get(f"{part}_rows", len(good))
        if not limits:
            assert total == len(bad) and told.startswith("mine: 10 malformed rows skipped; the first: mine.jsonl:1: ")

    def test_of_which_there_are_no_others_are_said_to_be_malformed(self, tmp_path: Path, refusing) -> None:
        path = tmp_path / "mine.jsonl"
        row = {"output": "x", "system": "brief"}
        path.write_text("\n".join(json.dumps({**row, "instruction": f"Ask {n}."}) for n in range(40)))
        recipe = DataRecipe(tasks=[str(path)], prompt="chat", skip_bad_rows=True)
        with pytest.raises(
            HycamError, match=r"no row is left in the train part, all are malformed; the first: mine\.j"
        ):
            prepare(recipe, refusing)
