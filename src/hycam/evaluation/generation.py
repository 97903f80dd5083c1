"""Greedy answers to prompts, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from hycam.errors import HycamError
from hycam.evaluation.batching import batches_by_length, pad, padding_id, padding_mask
from hycam.evaluation.mode import evaluating
from hycam.tables import Tables


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    end: int | None = None,
) -> list[str]:
    """The most likely continuation of each prompt, token by token, up to an end token or ``max_new_tokens``.

    The backbone's own generation settings (sampling, penalties, minimum lengths) do not apply, so that every backbone
    is decoded alike; its own end tokens stop an answer, as the tokenizer's does. Prompts are padded on the left and
    masked by position, so that the text does not depend on the batch, within rounding.

    Args:
        model: any causal language model, with or without an adapter; its mode and settings are restored afterwards.
        tokenizer: decodes the answers and names the end token.
        prompts: token ids, so that they are exactly those of training.
        max_new_tokens: tokens in an answer, at most, its end token included.
        batch_size: prompts in a batch, at most.
        progress: called after each batch with the number of prompts in it.
        end: the token that ends a response in training, which a chat's template may change.

    Returns:
        One text for each prompt, in the order of ``prompts``, without special tokens.

    Raises:
        HycamError: a prompt is empty, has a token that the model does not know, or leaves no room for the answer.
    """
    empty = [number for number, prompt in enumerate(prompts, 1) if len(prompt) == 0]
    if empty:
        raise HycamError(f"Prompt {empty[0]} of {len(prompts)} is empty. Give at least one word to continue.")
    Tables.of(model).check(prompts, max_new_tokens)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = _end_tokens(base, tokenizer, end)
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=padding_id(tokenizer),
        use_cache=True,
    )
    answers = [""] * len(prompts)
    with evaluating(model), _settings(base, greedy):
        for indices in batches_by_length([len(prompt) for prompt in prompts], batch_size):
            batch = [prompts[index] for index in indices]
            inputs = pad(batch, padding_id(tokenizer), "left").to(model.device)
            mask = padding_mask(batch, "left").to(model.device)
            output = model.generate(  # type: ignore[operator]  # transformers types it as an attribute of Module
                input_ids=inputs, attention_mask=mask, generation_config=greedy
            )
            texts = _decode(tokenizer, output[:, inputs.shape[1] :].cpu(), ends)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
            if progress is not None:
                progress(len(indices))
    return answers


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int | None) -> list[int]:
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (tokenizer.eos_token_id, end, *listed) if token is not None})


def _decode(tokenizer: PreTrainedTokenizerBase, new: torch.Tensor, ends: list[int]) -> list[str]:
    """Texts of new tokens ``[rows, length]``, each cut at its first end token (what follows is padding)."""
    alive = (torch.isin(new, torch.tensor(ends)).cumsum(dim=1) == 0).sum(dim=1)
    kept = [row[:length] for row, length in zip(new.tolist(), alive.tolist(), strict=True)]
    return tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@contextmanager
def _settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Replaces the model's generation settings, which would fill in whatever ``settings`` omits."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
