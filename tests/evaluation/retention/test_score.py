from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from architectures import ARCHITECTURES, tiny
from hycam.evaluation.retention.continued import Continued, joined
from hycam.evaluation.retention.score import Choices, Likelihoods, Scores, likelihoods
from hycam.evaluation.retention.tasks import RETENTION_TASKS, Item

from .naive import bits_of, is_greedy

CONTEXTS = ["Is 2 even?\nAnswer:", "one two three four five six", "a"]
ANSWERS = [" yes, of course", " seven", " Né!"]


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerFast) -> list[Continued]:
    return joined(CONTEXTS * 2, [*ANSWERS, *ANSWERS[::-1]], tokenizer)


def greedily_continued(model: PreTrainedModel, row: Continued, length: int) -> Continued:
    ids = row.ids[: row.start]
    while len(ids) < row.start + length:
        with torch.no_grad():
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return Continued(ids, row.start)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_bits_are_those_counted_token_by_token(
    batch_size: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    found = likelihoods(model, tokenizer, rows, batch_size)
    np.testing.assert_allclose(found.bits, [bits_of(model, *row) for row in rows], rtol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bits_are_right_on_other_architectures(architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(architecture)
    rows = [Continued([5, 6, 7, 8, 9], 3), Continued([9, 8, 7, 6, 5, 4, 3], 1), Continued([4, 5], 1)]
    found = likelihoods(model, tokenizer, rows, batch_size=3)
    # float32 through two layers; the two sides differ by padding, which changes the order of sums.
    np.testing.assert_allclose(found.bits, [bits_of(model, *row) for row in rows], rtol=2e-4)


def test_greedy_is_a_continuation_of_likeliest_tokens_only(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    likeliest = [greedily_continued(model, row, 4) for row in rows]
    spoilt = [Continued([*row.ids[:-1], (row.ids[-1] + 1) % 258], row.start) for row in likeliest]
    all_rows = [*rows, *likeliest, *spoilt]
    found = likelihoods(model, tokenizer, all_rows, batch_size=4).greedy.tolist()
    assert found == [is_greedy(model, *row) for row in all_rows]
    assert found[len(rows) :] == [True] * len(rows) + [False] * len(rows)


def test_only_the_continuations_reach_the_output_embedding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[:-1].numel()))
    done: list[int] = []
    likelihoods(model, tokenizer, rows, 4, done.append)
    assert sum(seen) == sum(len(ids) - start for ids, start in rows)
    assert done == [4, 2]


def test_an_adapter_is_scored_with_its_backbone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    base = likelihoods(model, tokenizer, rows, 4).bits
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    found = likelihoods(adapted, tokenizer, rows, 4).bits
    np.testing.assert_allclose(found, [bits_of(adapted, *row) for row in rows], rtol=1e-9)
    assert not np.isclose(found, base, rtol=1e-3).any()


ITEMS = [
    Item("t:1", "a", (" no", " certainly not", " yes"), 1),
    Item("t:2", "b", (" né", " no"), 0),
    Item("t:3", "c", (" x", " y"), 1),
]
# Least bits: choices 0, 1 and 0. Per byte: 6/3, 14/14, 8/4; 4/4, 3.6/3; 2/2, 2.1/2.
FOUND = Likelihoods(np.array([6.0, 14.0, 8.0, 4.0, 3.6, 2.0, 2.1]), np.array([0, 1, 0, 0, 1, 1, 0], dtype=bool))
GOLD = Likelihoods(FOUND.bits[[1, 3, 6]], FOUND.greedy[[1, 3, 6]])


def test_a_choice_is_right_where_the_gold_one_has_least_bits_per_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    choices = Choices(RETENTION_TASKS["piqa"], ITEMS, tokenizer, wrong_choices=True)
    assert choices.rows == joined(list("aaabbcc"), [one for item in ITEMS for one in item.choices], tokenizer)
    scores = choices.scores(FOUND)
    assert scores.bits.tolist() == [14.0, 4.0, 2.1]
    assert scores.bytes.tolist() == [14, 4, 2]  # of UTF-8, the blank with them
    assert scores.correct.tolist() == [True, True, False]
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.per_byte == pytest.approx(20.1 / 20)  # and not the mean of 1, 1 and 1.05


def test_without_the_wrong_choices_bits_are_the_same_and_nothing_is_said_of_accuracy(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    choices = Choices(RETENTION_TASKS["piqa"], ITEMS, tokenizer, wrong_choices=False)
    assert choices.rows == joined(list("abc"), [item.choices[item.gold] for item in ITEMS], tokenizer)
    scores = choices.scores(GOLD)
    assert (scores.bits.tolist(), scores.bytes.tolist()) == ([14.0, 4.0, 2.1], [14, 4, 2])
    assert scores.correct is scores.accuracy is None


@pytest.mark.parametrize("wrong_choices", [True, False])
def test_a_last_word_is_right_where_it_is_the_greedy_one(
    wrong_choices: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    items = [Item(item.row, item.context, (item.choices[item.gold],), 0) for item in ITEMS]
    lambada = Choices(RETENTION_TASKS["lambada"], items, tokenizer, wrong_choices).scores(GOLD)
    assert lambada.correct.tolist() == [True, False, False]
    assert Choices(RETENTION_TASKS["coqa"], items, tokenizer, wrong_choices).scores(GOLD).accuracy is None


def test_every_byte_weighs_the_same() -> None:
    assert Scores(np.array([10.0, 1.0]), np.array([2, 20]), None).per_byte == pytest.approx(11 / 22)
