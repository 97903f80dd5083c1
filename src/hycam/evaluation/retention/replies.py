"""The backbone's own replies to the fixed chat prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.chat import end_token
from hycam.data.prompts import render
from hycam.data.tokens import encode_prompts
from hycam.evaluation.generation import generate
from hycam.evaluation.retention.chat_prompts import CHAT_PROMPTS
from hycam.evaluation.retention.continued import Continued, joined

_MAX_NEW_TOKENS = 64
_PLAIN = "{instruction}\n\n"  # of a backbone that was not tuned for chat


def replies(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[Continued]:
    """The first ``count`` prompts, each with the greedy reply of at most 64 tokens behind it.

    A prompt is written by the tokenizer's chat template, whose date is fixed; where there is none, it is the question
    and a blank line.

    Args:
        backbone: answers; its mode and settings are put back afterwards.
        tokenizer: the backbone's.
        count: how many; all where there are fewer.
        batch_size: most prompts in a batch.
        progress: called after each batch with the number of prompts in it.
    """
    style = "chat" if tokenizer.chat_template else _PLAIN
    asked = [{"instruction": prompt, "input": ""} for prompt in CHAT_PROMPTS[:count]]
    prompts = [render(example, style, tokenizer) for example in asked]
    ids = encode_prompts(prompts, tokenizer, style)
    end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, style)))
    answers = generate(backbone, tokenizer, ids, _MAX_NEW_TOKENS, batch_size, progress, end)
    return joined(prompts, answers, tokenizer, style)
