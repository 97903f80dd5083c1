from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hycam.evaluation.retention.chat_prompts import CHAT_PROMPTS
from hycam.evaluation.retention.continued import Continued
from hycam.evaluation.retention.replies import replies

TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}, {{ strftime_now('%d') }}: {{ message.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: list[int], most: int = 64) -> str:
    """Token by token, without a cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


def check(found: Continued, prompt: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, special: bool):
    before = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    reply = greedy(model, tokenizer, before)
    assert reply
    assert found.ids == before + tokenizer(reply, add_special_tokens=False)["input_ids"]
    assert found.start == len(before)


def test_prompts_are_forty_different_ones() -> None:
    assert len(CHAT_PROMPTS) == len(set(CHAT_PROMPTS)) == 40


def test_a_backbone_for_chat_is_asked_in_its_template_on_a_fixed_day(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = TEMPLATE
    found = replies(model, tokenizer, 3, 2)
    for one, asked in zip(found, CHAT_PROMPTS[:3], strict=True):
        check(one, f"<s>user, 26 Jul 2024: {asked}</s><s>assistant: ", model, tokenizer, special=False)


def test_another_backbone_is_asked_in_plain_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    for one, asked in zip(replies(model, tokenizer, 2, 8), CHAT_PROMPTS[:2], strict=True):
        check(one, f"{asked}\n\n", model, tokenizer, special=True)
