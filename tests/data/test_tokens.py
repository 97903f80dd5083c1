"""The ids of a chat are those of its template's own text, for tokenizers of every kind."""

from __future__ import annotations

from itertools import product
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizer

import hycam.data.tokens
from chat_templates import CHATML, FAMILIES, LLAMA_2, LLAMA_3_1, PHI_3, QWEN_3
from chat_tokenizers import KINDS
from data.chats import assistant, encoded, plain_row, template_ids, tokenizer_of, trained, user
from hycam.data.encode import encode
from hycam.data.prompts import Form, render
from hycam.data.tokens import encode_prompts
from hycam.errors import HycamError
from hycam.labelled import IGNORED

SAID = ("What is the answer?", "Two, said the user.", "And 17?", "é: 3.5 more", "Ünïcode?", "kind words\n\nof mine.")
every_kind = pytest.mark.parametrize("kind", KINDS)
# With and without a begin token, one turn and three: each with every family and every kind here, all with all in soak.
CASES = [
    pytest.param(family, kind, begin, turns, marks=() if number == (row + column) % 4 else pytest.mark.soak)
    for row, family in enumerate(FAMILIES)
    for column, kind in enumerate(KINDS)
    for number, (begin, turns) in enumerate(product((True, False), (1, 3)))
]


def conversation(*said: str) -> list[dict[str, Any]]:
    return [(assistant if number % 2 else user)(text) for number, text in enumerate(said)]


@pytest.mark.parametrize(("family", "kind", "begin", "turns"), CASES)
def test_ids_are_the_templates_own_and_generation_starts_from_their_beginning(
    family: str, kind: str, begin: bool, turns: int
) -> None:
    tokenizer = tokenizer_of(FAMILIES[family], kind, begin)
    said = SAID[: 2 * turns]
    row = encoded(plain_row(*said), tokenizer)
    whole = template_ids(tokenizer, conversation(*said), enable_thinking=False)
    end = len(whole) - whole[::-1].index(tokenizer.convert_tokens_to_ids(FAMILIES[family].end))
    assert row["input_ids"] == whole[:end]
    assert len(trained(row, tokenizer)) == turns
    assert row["trained"] == sum(label != IGNORED for label in row["labels"])
    history = [{"asked": said[n], "answered": said[n + 1]} for n in range(0, len(said) - 2, 2)]
    prompt = render({"instruction": said[-2], "input": "", "history": history}, "chat", tokenizer)
    assert encode_prompts([prompt], tokenizer, "chat") == [row["input_ids"][: row["prompt_length"]]]
    assert row["prompt"] == prompt
    if kind != "bytes":  # GPT-2's way to split cuts two line ends apart where a word follows, and only there
        asked = template_ids(tokenizer, conversation(*said)[:-1], add_generation_prompt=True, enable_thinking=False)
        assert row["input_ids"][: len(asked)] == asked


@every_kind
def test_every_answer_is_trained_with_its_end_token_and_nothing_else(kind: str) -> None:
    tokenizer = tokenizer_of(CHATML, kind)
    row = encoded(plain_row(*SAID), tokenizer)
    marked = tokenizer.apply_chat_template(conversation(*SAID), return_dict=True, return_assistant_tokens_mask=True)
    mask = marked["assistant_masks"][: len(row["input_ids"])]
    assert [label != IGNORED for label in row["labels"]] == [bool(one) for one in mask]
    assert sum(mask) == row["trained"] > 3


@pytest.mark.parametrize("kind", KINDS[2:])
def test_an_answer_begins_with_the_mark_of_its_blank_and_not_with_two(kind: str) -> None:
    tokenizer = tokenizer_of(LLAMA_2, kind)
    row = encoded(plain_row("Tell me.", "The answer"), tokenizer)
    first = tokenizer.convert_ids_to_tokens(row["input_ids"])[row["prompt_length"]]
    assert first.startswith("▁") and first != "▁"


def test_a_token_that_takes_up_white_space_belongs_to_the_prompt() -> None:
    tokenizer = tokenizer_of(PHI_3, "legacy")
    row = encoded(plain_row("Tell me.", " the answer"), tokenizer)
    asked = template_ids(tokenizer, conversation("Tell me."), add_generation_prompt=True)
    assert row["input_ids"][: row["prompt_length"]] == asked
    assert trained(row, tokenizer) == ["the answer<|end|>"]


def test_an_answer_that_begins_inside_a_token_is_refused_with_the_place() -> None:
    tokenizer = tokenizer_of(LLAMA_3_1, "lines")
    tokenizer.chat_template = CHATML.template
    with pytest.raises(
        HycamError, match=r"^a\.jsonl:1: .* character \d+ of the chat, .*assistant\\n' and '\\nmodel.*alpaca"
    ):
        encoded(plain_row("Tell me.", "\nmodel"), tokenizer)


def test_an_answer_that_changes_the_prompts_last_tokens_is_refused() -> None:
    tokenizer = tokenizer_of(LLAMA_3_1, "bytes")
    tokenizer.chat_template = LLAMA_3_1.template.replace(" | trim", "")
    assert encoded(plain_row("Tell me.", "the answer"), tokenizer)["trained"]
    with pytest.raises(HycamError, match=r"^a\.jsonl:1: .* tokenises the prompt .* begins with ' the answer"):
        encoded(plain_row("Tell me.", " the answer"), tokenizer)


@every_kind
@pytest.mark.parametrize("limit", [60, 45])
def test_a_chat_that_is_too_long_loses_the_middle_of_its_prompt(kind: str, limit: int) -> None:
    tokenizer = tokenizer_of(CHATML, kind)
    said = ("What is the answer? " * 9, "Two words.", "And?", "More of them.")
    whole, short = (encoded(plain_row(*said), tokenizer, max_length=most) for most in (4000, limit))
    begin, response = whole["prompt_length"], len(whole["input_ids"]) - whole["prompt_length"]
    room = limit - response
    keep = [*range(room - room // 2), *range(begin - room // 2, begin + response)]
    assert short["shortened"] and len(keep) == limit
    for column in ("input_ids", "labels"):
        assert short[column] == [whole[column][number] for number in keep]


@pytest.mark.parametrize("kind", KINDS[1:3])
@pytest.mark.parametrize("overlong", ["shorten", "drop"])
def test_the_ends_of_a_giant_chat_give_the_tokens_of_the_whole(
    kind: str, overlong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(LLAMA_2, kind)
    text = " ".join(f"word {n * n % 97} of the user é{n}" for n in range(1500))
    said = [("Short", "answer"), (text, "answer"), ("Short", text), (text, "1", text, text, "Now?", "the answer")]
    dataset = datasets.concatenate_datasets([plain_row(*one) for one in said])
    found = []
    for plenty in (hycam.data.tokens._PLENTY, 10**9):
        monkeypatch.setattr(hycam.data.tokens, "_PLENTY", plenty)
        made = encode(dataset, tokenizer, Form("chat", max_length=100, overlong=overlong))
        found.append((made.dataset.to_list(), made.counts))
    assert found[0] == found[1]
    assert found[0][1].kept == (3 if overlong == "shorten" else 1)


class OneByOne(PreTrainedTokenizer):
    """A tokenizer in Python, which does not know where in a text its tokens stand."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(eos_token="</s>", pad_token="</s>", **settings)

    @property
    def vocab_size(self) -> int:
        return 1000

    def get_vocab(self) -> dict[str, int]:
        return {chr(number): number for number in range(1000)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


def test_a_tokenizer_that_knows_no_places_is_asked_for_the_tokens_of_the_beginnings() -> None:
    tokenizer = OneByOne(chat_template=QWEN_3.template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_3.special)})
    row = encoded(plain_row(*SAID[:4]), tokenizer)
    ids = template_ids(tokenizer, conversation(*SAID[:4]))
    assert row["input_ids"] == ids[:-1]
    asked = template_ids(tokenizer, conversation(*SAID[:3]), add_generation_prompt=True, enable_thinking=False)
    assert row["input_ids"][: row["prompt_length"]] == asked
    assert trained(row, tokenizer) == [f"{answer}<|im_end|>" for answer in SAID[1:4:2]]
