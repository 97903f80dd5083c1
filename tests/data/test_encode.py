from __future__ import annotations

import re
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import hycam.data.encode
import hycam.data.tokens
from byte_tokenizer import BOS, EOS, byte_tokenizer
from hycam.data.encode import encode, tokenizer_hash
from hycam.data.prompts import Form, render, render_turns
from hycam.data.recipe import Overlong, Turns
from hycam.data.tokens import LEAST_PROMPT
from hycam.errors import HycamError
from hycam.labelled import IGNORED

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OVERLONG: tuple[Overlong, ...] = ("shorten", "drop")
TEMPLATE = "Q: {instruction}\nA: "


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("<s> $A")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def talks(*conversations: list[tuple[str, str]]) -> datasets.Dataset:
    """Rows of questions and answers in turn."""
    return datasets.Dataset.from_list(
        [
            {
                "row": f"a.jsonl:{number}",
                "group": turns[0][0],
                "instruction": turns[-1][0],
                "input": "",
                "response": turns[-1][1],
                "system": "",
                "history": [{"asked": asked, "answered": answered} for asked, answered in turns[:-1]],
                "part": "",
            }
            for number, turns in enumerate(conversations, 1)
        ],
        features=datasets.Features(
            {
                **dict.fromkeys(
                    ("row", "group", "instruction", "input", "response", "system", "part"), datasets.Value("string")
                ),
                "history": [{"asked": datasets.Value("string"), "answered": datasets.Value("string")}],
            }
        ),
    )


def rows(*examples: tuple[str, str]) -> datasets.Dataset:
    """Rows of instruction and response."""
    return talks(*([example] for example in examples))


def trained_texts(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Every stretch of tokens with a loss, as text."""
    found: list[list[int]] = []
    before = IGNORED
    for label in row["labels"]:
        if label != IGNORED:
            if before == IGNORED:
                found.append([])
            found[-1].append(label)
        before = label
    return [tokenizer.decode(ids) for ids in found]


def split(row: dict) -> tuple[list[int], list[int]]:
    return row["input_ids"][: row["prompt_length"]], row["input_ids"][row["prompt_length"] :]


def prompt_ids(instruction: str, tokenizer) -> list[int]:
    text = render({"instruction": instruction, "input": ""}, "alpaca", tokenizer)
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


def test_the_loss_is_on_response_and_end_token_only_also_where_the_prompt_has_the_end_token(tokenizer) -> None:
    (row,) = encode(rows(("Before </s> after", "b")), tokenizer).dataset
    prompt, response = split(row)
    assert EOS in prompt  # masking by "== pad" would be told from masking by position here
    assert row["labels"] == [IGNORED] * len(prompt) + response
    assert response[-1] == EOS == tokenizer.pad_token_id


@pytest.mark.parametrize("layout", ["<s> $A </s>", "$A </s>", "<s> $A <s> </s>", "$A"])
def test_nothing_that_a_tokenizer_adds_behind_a_text_stands_between_prompt_and_response(layout: str) -> None:
    tokenizer = byte_tokenizer(layout)
    (row,) = encode(rows(("Go.", "Gone.")), tokenizer).dataset
    start = [BOS] if layout.startswith("<s>") else []
    assert split(row)[0] == start + prompt_ids("Go.", tokenizer)
    assert split(row)[1] == [*tokenizer.convert_tokens_to_ids(tokenizer.tokenize("Gone.")), EOS]


def test_chat_gets_no_second_start_token(tokenizer) -> None:
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m['content'] }}{% endfor %}="
    (row,) = encode(rows(("Go.", "Gone.")), tokenizer, Form("chat")).dataset
    assert tokenizer.decode(row["input_ids"]) == "<s>Go.=Gone.</s>"


def test_a_row_of_exactly_the_maximum_length_is_kept_whole(tokenizer) -> None:
    length = len(encode(rows(("Go.", "Gone.")), tokenizer).dataset[0]["input_ids"])
    for overlong in OVERLONG:
        counts = encode(rows(("Go.", "Gone.")), tokenizer, Form(max_length=length, overlong=overlong)).counts
        assert (counts.kept, counts.shortened, counts.dropped, counts.tokens) == (1, 0, 0, length)


def test_a_row_is_dropped_when_its_response_leaves_too_little_of_the_prompt(tokenizer) -> None:
    fits = "r" * (100 - 1 - LEAST_PROMPT)
    counts = encode(
        rows(("Go.", fits), ("Go.", fits + "r"), ("Go.", "r" * 500)), tokenizer, Form(max_length=100)
    ).counts
    assert (counts.rows, counts.kept, counts.shortened, counts.dropped) == (3, 1, 1, 2)


@pytest.mark.parametrize("given_rows", [rows(("Go.", "r" * 50)), rows(("Go.", "r")).select([])], ids=["left", "at all"])
def test_no_row_is_an_empty_dataset_with_the_same_columns(tokenizer, given_rows: datasets.Dataset) -> None:
    encoded = encode(given_rows, tokenizer, Form(max_length=20))
    assert encoded.counts.kept == encoded.counts.tokens == len(encoded.dataset) == 0
    assert encoded.dataset.column_names == encode(rows(("Go.", "r")), tokenizer).dataset.column_names


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer) -> None:
    tokenizer.eos_token = None
    with pytest.raises(HycamError, match="no end token"):
        encode(rows(("Go.", "Gone.")), tokenizer)


def test_index_is_the_number_of_the_row_that_was_given_and_progress_counts_them(tokenizer) -> None:
    told: list[int] = []
    given_rows = rows(*(("Go.", "r" * (500 if n % 3 == 0 else 5)) for n in range(1100)))
    encoded = encode(given_rows, tokenizer, Form(max_length=300), told.append)
    assert encoded.dataset["index"][:] == [n for n in range(1100) if n % 3 != 0]
    assert [int(row.split(":")[1]) - 1 for row in encoded.dataset["row"]] == encoded.dataset["index"][:]
    assert sum(told) == 1100 and len(told) > 1


def test_among_gives_the_asked_rows_that_fit_with_counts_and_ids_of_their_own(tokenizer) -> None:
    encoded = encode(rows(*((f"Go {n}.", "r" * n) for n in range(1, 400, 9))), tokenizer, Form(max_length=300))
    wanted = [1, 2, 3, 20, 30, 40, 44]
    some = encoded.first(np.array(wanted), len(wanted))
    expected = [row for row in encoded.dataset if row["index"] in wanted]
    assert some.dataset.to_list() == expected
    assert 0 < len(expected) < len(wanted)
    assert (some.counts.rows, some.counts.kept, some.counts.dropped) == (7, len(expected), 7 - len(expected))
    assert some.counts.shortened == sum(row["shortened"] for row in expected) > 0
    assert some.counts.response_tokens == sum(row["trained"] for row in expected)
    ids = [token for row in expected for token in row["input_ids"]]
    assert np.concatenate(list(some.token_ids())).tolist() == ids and some.counts.tokens == len(ids)


class TestConversations:
    """The loss falls on every answer, or on the last, with its end token, and on nothing else."""

    TURNS = (("One?", "1"), ("Two?", "2 2"), ("Three?", "3."))

    @pytest.mark.parametrize("style", ["alpaca", "paper", "chat", TEMPLATE])
    def test_every_answer_or_only_the_last_is_trained_with_its_end_token(self, style: str, chat_tokenizer) -> None:
        end = "<|im_end|>" if style == "chat" else "</s>"
        answers = [f"{answer}{end}" for _, answer in self.TURNS]
        found = {}
        for turns in ("all", "last"):
            (row,) = encode(talks([*self.TURNS]), chat_tokenizer, Form(style, turns=turns)).dataset
            found[turns] = row
            assert trained_texts(row, chat_tokenizer) == (answers if turns == "all" else answers[-1:])
            assert row["trained"] == sum(label != IGNORED for label in row["labels"])
            assert chat_tokenizer.decode(row["input_ids"][row["prompt_length"] :]) == answers[-1]
            assert row["prompt"] == chat_tokenizer.decode(row["input_ids"][: row["prompt_length"]]).removeprefix("<s>")
            assert row["response"] == "3."
        assert found["all"]["input_ids"] == found["last"]["input_ids"]

    def test_a_chat_is_to_the_token_what_the_template_writes(self, chat_tokenizer) -> None:
        (row,) = encode(talks([*self.TURNS]), chat_tokenizer, Form("chat")).dataset
        said = [(role, text) for turn in self.TURNS for role, text in zip(("user", "assistant"), turn, strict=True)]
        whole = chat_tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in said])
        ids = whole["input_ids"]
        assert row["input_ids"] == ids[:-1] and chat_tokenizer.decode(ids[-1:]) == "\n"

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.tuples(st.text(max_size=60), st.text(max_size=40)), min_size=1, max_size=5),
        st.sampled_from(["alpaca", "paper", "chat", TEMPLATE]),
        st.sampled_from(["all", "last"]),
        st.integers(20, 400),
        st.sampled_from(OVERLONG),
    )
    def test_tokens_labels_and_counts_are_those_of_a_plain_loop(
        self, turns: list[tuple[str, str]], style: str, which: Turns, max_length: int, overlong: Overlong
    ) -> None:
        tokenizer = byte_tokenizer("<s> $A")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHATML
        dataset = talks(turns)
        encoded = encode(dataset, tokenizer, Form(style, max_length, overlong, which))
        end = tokenizer.convert_tokens_to_ids("<|im_end|>") if style == "chat" else EOS
        pieces = render_turns(dataset[0], style, tokenizer, which)
        prompt: list[tuple[int, bool]] = [] if style == "chat" else [(BOS, False)]  # each token, and whether it counts
        for number, (before, answer) in enumerate(pieces):
            prompt += [(token, False) for token in tokenizer.encode(before, add_special_tokens=False)]
            response = [(token, True) for token in [*tokenizer.encode(answer, add_special_tokens=False), end]]
            if number < len(pieces) - 1:
                prompt += [(token, which == "all") for token, _ in response]
        room = max_length - len(response)
        is_long = len(prompt) > room
        if is_long and (overlong == "drop" or room < LEAST_PROMPT):
            assert (encoded.counts.kept, encoded.counts.dropped) == (0, 1)
            return
        if is_long:
            prompt = prompt[: room - room // 2] + prompt[len(prompt) - room // 2 :]
        (row,) = encoded.dataset
        assert row["input_ids"] == [token for token, _ in prompt + response]
        assert row["labels"] == [token if counts else IGNORED for token, counts in prompt + response]
        assert (row["prompt_length"], row["shortened"]) == (len(prompt), is_long)
        trained = sum(counts for _, counts in prompt + response)
        assert row["trained"] == encoded.counts.response_tokens == trained
        assert encoded.counts.shortened == is_long and encoded.counts.tokens == len(row["input_ids"])


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens depend on what stands around them: pairs of letters and whole words are tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    words = [" ".join(f"word{n * n % 97} Umlaut ä{n}" for n in range(300))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


class TestGiantRows:
    """Of a text that is far too long only the ends are tokenised, and nothing else comes of it."""

    @staticmethod
    def giant(characters: int) -> str:
        text = " ".join(f"word{n * n % 97} Umlaut ä{n}" for n in range(characters // 16))
        return text[:characters]

    def test_of_a_megabyte_few_are_tokenised(self, merging, monkeypatch: pytest.MonkeyPatch) -> None:
        characters = 0

        def counted(self: PreTrainedTokenizerFast, texts: Any, *arguments: Any, **settings: Any) -> Any:
            nonlocal characters
            characters += sum(map(len, [texts] if isinstance(texts, str) else texts))
            return own(self, texts, *arguments, **settings)

        own = PreTrainedTokenizerFast.__call__
        monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
        text = self.giant(1_000_000)
        (row,) = encode(rows((text, "answer")), merging, Form(max_length=300)).dataset
        assert row["prompt"].count(text) == 1 and len(row["input_ids"]) == 300
        assert characters < 100_000

    @pytest.mark.parametrize("overlong", OVERLONG)
    def test_the_ends_give_the_tokens_and_counts_of_the_whole(
        self, merging, overlong: Overlong, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = self.giant(60_000)
        dataset = talks(
            [(text, "answer")],
            [("Short", "answer")],
            [("Short", text)],
            [("Short", text), ("Now?", "answer")],
            [(text, "1"), (text, "2"), ("Now?", "answer")],
        )
        found = []
        for plenty in (hycam.data.tokens._PLENTY, 10**9):
            monkeypatch.setattr(hycam.data.tokens, "_PLENTY", plenty)
            encoded = encode(dataset, merging, Form(max_length=300, overlong=overlong))
            found.append((encoded.dataset.to_list(), encoded.counts))
        assert found[0] == found[1]
        counts = found[0][1]
        assert (counts.kept, counts.shortened) == ((4, 3) if overlong == "shorten" else (1, 0))

    def test_an_end_that_is_few_tokens_is_not_taken_for_one_that_fits(self) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        raw = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
        fits = f"{'x' * 50_000} a {'x' * 50_000}"  # three tokens, and the one that matters is in the middle
        (row,) = encode(rows((fits, "a")), tokenizer, Form("{instruction}", max_length=20)).dataset
        assert row["input_ids"] == [0, 2, 0, 2, 1]

    def test_many_long_rows_are_worked_on_a_few_at_a_time(self, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = rows(*((f"Ask {n} " + "x" * (n % 7) * 20, f"{n}") for n in range(50)))
        whole = encode(dataset, tokenizer)
        told: list[int] = []
        monkeypatch.setattr(hycam.data.encode, "_TEXT_AT_ONCE", 1000)
        apart = encode(dataset, tokenizer, progress=told.append)
        assert len(told) > 10 and sum(told) == 50
        assert apart.dataset.to_list() == whole.dataset.to_list()


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system text.') }}{% endif %}" + CHATML


class TestBadRows:
    """A row that the chat template refuses is as bad as one that is malformed in its file."""

    @pytest.fixture
    def dataset(self) -> datasets.Dataset:
        talk = talks(*([(f"Ask {n}.", f"Say {n}.")] for n in range(5)))
        return talk.map(lambda row: {"system": "brief" if row["row"] in ("a.jsonl:2", "a.jsonl:4") else ""})

    def test_it_is_an_error_with_its_place_where_it_is_not(self, dataset, chat_tokenizer) -> None:
        chat_tokenizer.chat_template = REFUSING
        with pytest.raises(HycamError, match=r"^a\.jsonl:2: .*No system text"):
            encode(dataset, chat_tokenizer, Form("chat"))

    def test_a_batch_of_nothing_else_has_no_row(self, dataset, chat_tokenizer, monkeypatch) -> None:
        monkeypatch.setattr(hycam.data.encode, "_ROWS_AT_ONCE", 1)
        chat_tokenizer.chat_template = REFUSING
        found = encode(dataset, chat_tokenizer, Form("chat", skip_bad_rows=True))
        assert (found.counts.kept, [*found.bad]) == (3, [1, 3])

    def test_of_some_rows_only_their_own_are_counted(self, dataset, chat_tokenizer) -> None:
        chat_tokenizer.chat_template = REFUSING
        found = encode(dataset, chat_tokenizer, Form("chat", skip_bad_rows=True))
        some = found.first(np.array([3, 0, 1, 2, 4]), 1)
        assert (some.counts.rows, some.counts.kept, [*some.bad]) == (2, 1, [3])
        assert found.first(np.array([0, 2]), 2).bad == {}


def test_a_tokenizer_is_known_by_its_content(tokenizer, tmp_path) -> None:
    first = tokenizer_hash(tokenizer)
    assert re.fullmatch("[0-9a-f]{64}", first)
    for folder in ("a", "b"):
        tokenizer.save_pretrained(tmp_path / folder)
    loaded = [PreTrainedTokenizerFast.from_pretrained(tmp_path / folder) for folder in ("a", "b")]
    assert tokenizer_hash(loaded[0]) == tokenizer_hash(loaded[1])
    tokenizer(["used", "in between"], padding=True, truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == first
    tokenizer.chat_template = CHATML
    with_template = tokenizer_hash(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len({first, with_template, tokenizer_hash(tokenizer)}) == 3
