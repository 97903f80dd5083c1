from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from architectures import tiny
from hycam.adapt import adapt
from hycam.evaluation.retention import kl as module
from hycam.evaluation.retention.base import base_of
from hycam.evaluation.retention.continued import Continued
from hycam.evaluation.retention.kl import divergence

from .naive import kl, log_probabilities

ROWS = [Continued([0, 5, 6, 7, 8, 9], 1), Continued([0, 50, 60, 70], 3), Continued([0, 100, 120], 3)]
POSITIONS = 6 + 2 + 1


def never() -> PreTrainedModel:
    raise AssertionError("the backbone was loaded")


def other_weights(model: PreTrainedModel) -> PreTrainedModel:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
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
    assert (found.tokens, found.texts) == (POSITIONS, 3) == (len(each), len(ROWS))
    assert found.mean == pytest.approx(math.fsum(each) / POSITIONS, rel=1e-10)
    assert found.mean > 0.01
    assert min(each) > 0


def test_kl_of_two_known_distributions_is_that_of_the_base_to_the_adapted(tokenizer: PreTrainedTokenizerFast) -> None:
    base, adapted = (tiny("llama", vocab_size=4, bos_token_id=0, eos_token_id=1, pad_token_id=1) for _ in range(2))
    for model, chances in ((base, [0.7, 0.1, 0.1, 0.1]), (adapted, [0.25] * 4)):
        fixed = torch.tensor(chances).log()
        model.lm_head.register_forward_hook(lambda _, __, output, fixed=fixed: fixed.expand_as(output))
    rows = [Continued([0, 2, 3], 1)]
    forwards = 0.7 * math.log(0.7 / 0.25) + 0.3 * math.log(0.1 / 0.25)
    backwards = 0.25 * math.log(0.25 / 0.7) + 0.75 * math.log(0.25 / 0.1)
    assert divergence(adapted, lambda: nullcontext(base), tokenizer, rows, 1).mean == pytest.approx(forwards, rel=1e-6)
    assert divergence(base, lambda: nullcontext(adapted), tokenizer, rows, 1).mean == pytest.approx(backwards, rel=1e-6)


@pytest.mark.parametrize("method", ["hycam", "lora"])
def test_of_an_untrained_adapter_it_is_exactly_zero(method: str, tokenizer: PreTrainedTokenizerFast) -> None:
    adapted = adapt(tiny("llama", vocab_size=258), method, {"r": 4})
    assert divergence(adapted, base_of(adapted, never), tokenizer, ROWS, 2).mean == 0.0


def test_of_the_backbone_itself_it_is_exactly_zero_after_one_pass(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = divergence(model, None, tokenizer, ROWS, 8)
    assert (found.mean, found.tokens) == (0.0, POSITIONS)
    assert len(calls) == 1


def test_logits_are_made_for_a_bounded_number_of_positions_of_which_each_is_compared(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_TOKENS", 8)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, output: seen.append(output.shape[:-1].numel()))
    done: list[int] = []
    found = divergence(other_weights(model), lambda: nullcontext(model), tokenizer, ROWS * 3, 8, done.append)
    assert max(seen) <= 8
    assert sum(seen) == 2 * found.tokens == 2 * 3 * POSITIONS
    assert sum(done) == 9


def test_bfloat16_logits_are_compared_in_float32(tokenizer: PreTrainedTokenizerFast) -> None:
    base, adapted = (tiny("llama", seed, dtype=torch.bfloat16, vocab_size=258) for seed in (0, 1))
    rows = [Continued(list(range(5, 25)), 1)]
    expected = np.mean([
        kl(p, q)
        for p, q in zip(log_probabilities(base, rows[0].ids), log_probabilities(adapted, rows[0].ids), strict=True)
    ])  # fmt: skip
    found = divergence(adapted, lambda: nullcontext(base), tokenizer, rows, 1)
    assert found.mean == pytest.approx(expected, rel=1e-5)  # in bfloat16 it would be off by a hundredth
