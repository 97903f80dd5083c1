from __future__ import annotations

import datasets
import pytest

from byte_tokenizer import BOS, EOS, byte_tokenizer
from hycam.data.encode import IGNORED, LEAST_PROMPT, Encoded, encode
from hycam.data.load import FEATURES
from hycam.data.prompts import render
from hycam.errors import HycamError


def rows(*examples: tuple[str, str]) -> datasets.Dataset:
    """Rows of instruction and response."""
    listed = [
        {"row": f"a.jsonl:{number}", "group": asked, "instruction": asked, "input": "", "response": answered}
        for number, (asked, answered) in enumerate(examples, 1)
    ]
    return datasets.Dataset.from_list(listed, features=FEATURES)


def split(row: dict) -> tuple[list[int], list[int]]:
    return row["input_ids"][: row["prompt_length"]], row["input_ids"][row["prompt_length"] :]


def prompt_ids(instruction: str, tokenizer) -> list[int]:
    text = render({"instruction": instruction, "input": ""}, "alpaca", tokenizer)
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


def test_a_row_is_the_start_token_the_prompt_the_response_and_the_end_token(tokenizer) -> None:
    (row,) = encode(
        rows(
            ("Grüß.", " zwei\n"),
        ),
        tokenizer,
    ).dataset
    prompt, response = split(row)
    assert prompt == [BOS, *prompt_ids("Grüß.", tokenizer)]
    assert tokenizer.decode(response[:-1]) == " zwei\n" and response[-1] == EOS
    assert row["prompt"].endswith("### Response:\n") and row["response"] == " zwei\n"


def test_the_loss_is_on_response_and_end_token_only_also_where_the_prompt_has_the_end_token(tokenizer) -> None:
    (row,) = encode(
        rows(
            ("Before </s> after", "b"),
        ),
        tokenizer,
    ).dataset
    prompt, response = split(row)
    assert EOS in prompt  # masking by "== pad" would be told from masking by position here
    assert row["labels"] == [IGNORED] * len(prompt) + response
    assert response[-1] == EOS == tokenizer.pad_token_id


@pytest.mark.parametrize("layout", ["<s> $A </s>", "$A </s>", "<s> $A <s> </s>", "$A"])
def test_nothing_that_a_tokenizer_adds_behind_a_text_stands_between_prompt_and_response(layout: str) -> None:
    tokenizer = byte_tokenizer(layout)
    (row,) = encode(
        rows(
            ("Go.", "Gone."),
        ),
        tokenizer,
    ).dataset
    start = [BOS] if layout.startswith("<s>") else []
    assert split(row)[0] == start + prompt_ids("Go.", tokenizer)
    assert split(row)[1] == [*tokenizer.convert_tokens_to_ids(tokenizer.tokenize("Gone.")), EOS]


def test_chat_gets_no_second_start_token(tokenizer) -> None:
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m['content'] }}{% endfor %}="
    (row,) = encode(
        rows(
            ("Go.", "Gone."),
        ),
        tokenizer,
        style="chat",
    ).dataset
    assert tokenizer.decode(row["input_ids"]) == "<s>Go.=Gone.</s>"


def test_shortening_takes_the_middle_of_the_prompt_and_nothing_of_the_response(tokenizer) -> None:
    instruction = "".join(chr(ord("a") + number % 26) for number in range(300))
    whole = [BOS, *prompt_ids(instruction, tokenizer)]
    for excess in (1, 2, 7, 150):
        limit = len(whole) + len("answer") + 1 - excess
        encoded = encode(rows((instruction, "answer")), tokenizer, max_length=limit)
        prompt, response = split(encoded.dataset[0])
        assert len(prompt) + len(response) == limit
        assert tokenizer.decode(response) == "answer</s>"
        head, tail = (len(prompt) + 1) // 2, len(prompt) // 2
        assert prompt == whole[:head] + whole[-tail:]
        assert encoded.dataset[0]["shortened"] and encoded.counts.shortened == 1


def test_a_row_of_exactly_the_maximum_length_is_kept_whole(tokenizer) -> None:
    length = len(encode(rows(("Go.", "Gone.")), tokenizer).dataset[0]["input_ids"])
    for overlong in ("shorten", "drop"):
        counts = encode(rows(("Go.", "Gone.")), tokenizer, max_length=length, overlong=overlong).counts
        assert (counts.kept, counts.shortened, counts.dropped, counts.tokens) == (1, 0, 0, length)


def test_a_row_is_dropped_when_its_response_leaves_too_little_of_the_prompt(tokenizer) -> None:
    fits = "r" * (100 - 1 - LEAST_PROMPT)
    counts = encode(rows(("Go.", fits), ("Go.", fits + "r"), ("Go.", "r" * 500)), tokenizer, max_length=100).counts
    assert (counts.rows, counts.kept, counts.shortened, counts.dropped) == (3, 1, 1, 2)


def test_drop_leaves_out_whatever_is_too_long(tokenizer) -> None:
    encoded = encode(rows(("Go.", "a"), ("Go" * 100, "b"), ("Go.", "c")), tokenizer, max_length=160, overlong="drop")
    assert encoded.dataset["row"] == ["a.jsonl:1", "a.jsonl:3"]
    assert (encoded.counts.kept, encoded.counts.shortened, encoded.counts.dropped) == (2, 0, 1)


def test_counts_are_those_of_the_rows(tokenizer) -> None:
    encoded: Encoded = encode(rows(*((f"Say {n}.", "x" * n) for n in range(1, 1500, 7))), tokenizer)
    counted = [len(ids) for ids in encoded.dataset["input_ids"]]
    trained = [sum(label != IGNORED for label in labels) for labels in encoded.dataset["labels"]]
    assert encoded.counts.rows == encoded.counts.kept + encoded.counts.dropped
    assert encoded.counts.dropped > 0
    assert encoded.counts.tokens == sum(counted)
    assert encoded.counts.response_tokens == sum(trained)
    assert max(counted) <= 1200


def test_no_row_left_is_an_empty_dataset_with_the_same_columns(tokenizer) -> None:
    encoded = encode(rows(("Go.", "r" * 50)), tokenizer, max_length=20)
    assert encoded.counts.kept == encoded.counts.tokens == 0
    assert encoded.dataset.column_names == encode(rows(("Go.", "r")), tokenizer).dataset.column_names


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer) -> None:
    tokenizer.eos_token = None
    with pytest.raises(HycamError, match="no end token"):
        encode(rows(("Go.", "Gone.")), tokenizer)


def test_no_progress_bar_is_drawn_where_there_is_no_terminal(tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    encode(rows(("Go.", "Gone.")), tokenizer)
    assert capfd.readouterr().err == ""
    assert datasets.is_progress_bar_enabled()
