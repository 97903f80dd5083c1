from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from architectures import tiny
from byte_tokenizer import BOS, byte_tokenizer
from hycam.adapt import adapt
from hycam.evaluation.retention import score
from hycam.evaluation.retention.measure import base_of
from hycam.evaluation.retention.score import (
    Continued,
    Likelihoods,
    choices_of,
    divergence,
    joined,
    likelihoods,
    scores_of,
)
from hycam.evaluation.retention.tasks import RETENTION_TASKS, Item

from .naive import bits_of, is_greedy, kl, log_probabilities


def sentencepiece() -> PreTrainedTokenizerFast:
    """Puts a blank before every text, as the tokenizer of Llama 2 does; its words begin with theirs."""
    tokens = ["▁Answer", "▁yes", "yes"]
    merges = list(dict.fromkeys((token[:size], token[size]) for token in tokens for size in range(1, len(token))))
    pieces = dict.fromkeys(["<s>", "</s>", *"▁Answeryes:", *(first + second for first, second in merges)])
    raw = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("layout", ["<s> $A", "<s> $A </s>", "$A"])
def test_a_continuation_begins_with_its_blank_behind_the_tokens_of_the_context(layout: str) -> None:
    tokenizer = byte_tokenizer(layout)
    plain = byte_tokenizer("$A")
    (found,) = joined(["Is 2 even?\nAnswer:"], [" Né"], tokenizer)
    begin = [BOS] if layout.startswith("<s>") else []
    before = begin + plain("Is 2 even?\nAnswer:")["input_ids"]
    assert found == Continued(before + plain(" Né")["input_ids"], len(before))  # and no end token behind it


def test_no_second_blank_stands_before_a_continuation() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.tokenize(" yes") == ["▁", "▁yes"]  # which it would be, tokenised apart
    (found,) = joined(["Answer:"], [" yes"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.ids) == ["▁Answer", ":", "▁yes"]
    assert found.start == 2


def test_a_token_that_spans_the_boundary_belongs_to_the_continuation() -> None:
    tokenizer = sentencepiece()
    (found,) = joined(["Answer: y"], ["es"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.ids[found.start :]) == ["▁yes"]


def test_a_chat_prompt_gets_no_further_special_tokens_and_an_empty_continuation_no_token() -> None:
    (found,) = joined(["<s>Hi"], [" you"], byte_tokenizer(), "chat")
    assert found.ids[0] == BOS and BOS not in found.ids[1:] and found.start == 3
    (found,) = joined(["Hello"], [""], byte_tokenizer())
    assert found.start == len(found.ids) == 6


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


@pytest.mark.parametrize("batch_size", [1, 4])
def test_bits_are_those_counted_token_by_token(
    batch_size: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    found = likelihoods(model, tokenizer, rows, batch_size)
    np.testing.assert_allclose(found.bits, [bits_of(model, *row) for row in rows], rtol=1e-12)


def test_greedy_is_a_continuation_of_likeliest_tokens_only(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Continued]
) -> None:
    likeliest = [greedily_continued(model, row, 4) for row in rows]
    spoilt = [Continued([*row.ids[:-1], (row.ids[-1] + 1) % 258], row.start) for row in likeliest]
    all_rows = [*rows, *likeliest, *spoilt]
    found = likelihoods(model, tokenizer, all_rows, batch_size=4).greedy.tolist()
    assert found == [is_greedy(model, *row) for row in all_rows]
    assert found[len(rows) :] == [True] * len(rows) + [False] * len(rows)


ITEMS = [
    Item("t:1", "a", (" no", " certainly not", " yes"), 1),
    Item("t:2", "b", (" né", " no"), 0),
    Item("t:3", "c", (" x", " y"), 1),
]
# Least bits: choices 0, 1 and 0. Per byte: 6/3, 14/14, 8/4; 4/4, 3.6/3; 2/2, 2.1/2.
FOUND = Likelihoods(np.array([6.0, 14.0, 8.0, 4.0, 3.6, 2.0, 2.1]), np.array([0, 1, 0, 0, 1, 1, 0], dtype=bool))
GOLD = Likelihoods(FOUND.bits[[1, 3, 6]], FOUND.greedy[[1, 3, 6]])


def test_a_choice_is_right_where_the_gold_one_has_least_bits_per_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    assert choices_of(ITEMS, tokenizer) == joined(
        list("aaabbcc"), [one for item in ITEMS for one in item.choices], tokenizer
    )
    scores = scores_of(RETENTION_TASKS["piqa"], ITEMS, FOUND)
    assert scores.bits.tolist() == [14.0, 4.0, 2.1]
    assert scores.bytes.tolist() == [14, 4, 2]  # of UTF-8, the blank with them
    assert scores.correct.tolist() == [True, True, False]
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.per_byte == pytest.approx(20.1 / 20)  # every byte weighs the same: not the mean of 1, 1 and 1.05


@pytest.mark.parametrize(("task", "correct"), [("piqa", None), ("coqa", None), ("lambada", [True, False, False])])
def test_of_the_gold_continuation_alone_only_a_last_word_is_known_to_be_right(task: str, correct: list | None) -> None:
    items = [Item(item.row, item.context, (item.choices[item.gold],), 0) for item in ITEMS]
    scores = scores_of(RETENTION_TASKS[task], items, GOLD)
    assert (scores.bits.tolist(), scores.bytes.tolist()) == ([14.0, 4.0, 2.1], [14, 4, 2])
    assert (None if scores.correct is None else scores.correct.tolist()) == correct
    assert (scores.accuracy is None) == (correct is None)


ROWS = [Continued([0, 5, 6, 7, 8, 9], 1), Continued([0, 50, 60, 70], 3), Continued([0, 100, 120], 3)]
POSITIONS = 6 + 2 + 1


def never() -> PreTrainedModel:
    raise AssertionError("the backbone was loaded")


def other_weights(model: PreTrainedModel) -> PreTrainedModel:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_kl_is_the_one_summed_word_by_word(
    batch_size: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    before = [log_probabilities(model, ids) for ids, _ in ROWS]
    adapted = other_weights(model)
    after = [log_probabilities(adapted, ids) for ids, _ in ROWS]
    each = [
        kl(p, q)
        for (_, start), base, other in zip(ROWS, before, after, strict=True)
        for p, q in zip(base[start - 1 :], other[start - 1 :], strict=True)
    ]
    found = divergence(adapted, base_of(adapted, never), tokenizer, ROWS, batch_size)
    assert (found["tokens"], found["texts"]) == (POSITIONS, 3) == (len(each), len(ROWS))
    assert found["mean"] == pytest.approx(math.fsum(each) / POSITIONS, rel=1e-10)
    assert found["mean"] > 0.01
    assert min(each) > 0


def test_kl_of_two_known_distributions_is_that_of_the_base_to_the_adapted(tokenizer: PreTrainedTokenizerFast) -> None:
    base, adapted = (tiny("llama", vocab_size=4, bos_token_id=0, eos_token_id=1, pad_token_id=1) for _ in range(2))
    for model, chances in ((base, [0.7, 0.1, 0.1, 0.1]), (adapted, [0.25] * 4)):
        fixed = torch.tensor(chances).log()
        model.lm_head.register_forward_hook(lambda _, __, output, fixed=fixed: fixed.expand_as(output))
    rows = [Continued([0, 2, 3], 1)]
    forwards = 0.7 * math.log(0.7 / 0.25) + 0.3 * math.log(0.1 / 0.25)
    backwards = 0.25 * math.log(0.25 / 0.7) + 0.75 * math.log(0.25 / 0.1)
    assert divergence(adapted, lambda: nullcontext(base), tokenizer, rows, 1)["mean"] == pytest.approx(
        forwards, rel=1e-6
    )
    assert divergence(base, lambda: nullcontext(adapted), tokenizer, rows, 1)["mean"] == pytest.approx(
        backwards, rel=1e-6
    )


@pytest.mark.parametrize("method", ["hycam", "lora"])
def test_of_an_untrained_adapter_it_is_exactly_zero(method: str, tokenizer: PreTrainedTokenizerFast) -> None:
    adapted = adapt(tiny("llama", vocab_size=258), method, {"r": 4})
    assert divergence(adapted, base_of(adapted, never), tokenizer, ROWS, 2)["mean"] == 0.0


def test_of_the_backbone_itself_it_is_exactly_zero_after_one_pass(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = divergence(model, None, tokenizer, ROWS, 8)
    assert (found["mean"], found["tokens"]) == (0.0, POSITIONS)
    assert len(calls) == 1


def test_logits_are_made_for_a_bounded_number_of_positions_of_which_each_is_compared(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_KL_BATCH_TOKENS", 8)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, output: seen.append(output.shape[:-1].numel()))
    done: list[int] = []
    found = divergence(other_weights(model), lambda: nullcontext(model), tokenizer, ROWS * 3, 8, done.append)
    assert max(seen) <= 8
    assert sum(seen) == 2 * found["tokens"] == 2 * 3 * POSITIONS
    assert sum(done) == 9


def test_bfloat16_logits_are_compared_in_float32(tokenizer: PreTrainedTokenizerFast) -> None:
    base, adapted = (tiny("llama", seed, dtype=torch.bfloat16, vocab_size=258) for seed in (0, 1))
    rows = [Continued(list(range(5, 25)), 1)]
    expected = np.mean([
        kl(p, q)
        for p, q in zip(log_probabilities(base, rows[0].ids), log_probabilities(adapted, rows[0].ids), strict=True)
    ])  # fmt: skip
    found = divergence(adapted, lambda: nullcontext(base), tokenizer, rows, 1)
    assert found["mean"] == pytest.approx(expected, rel=1e-5)  # in bfloat16 it would be off by a hundredth
