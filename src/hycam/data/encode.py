"""Examples to token ids and labels.

Prompt and response are tokenised apart, so that no token spans the boundary and generation starts from exactly the
prompt that was trained. The loss falls on the response and its end token only (Eq. 13); labels are masked by position,
because in many tokenizers padding is the end token too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import datasets
from transformers import PreTrainedTokenizerBase

from hycam.data.prompts import PromptStyle, render
from hycam.errors import HycamError
from hycam.labelled import IGNORED

Overlong = Literal["shorten", "drop"]

LEAST_PROMPT = 16  # a prompt shortened to fewer tokens than this would no longer ask anything

# verbose: what is too long is dealt with here, the tokenizer's own warning about it would mislead.
_PLAIN: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
_TOKENS = datasets.List(datasets.Value("int32"))
_FEATURES = datasets.Features(
    {
        "row": datasets.Value("string"),
        "prompt": datasets.Value("string"),
        "response": datasets.Value("string"),
        "input_ids": _TOKENS,
        "labels": _TOKENS,
        "prompt_length": datasets.Value("int32"),
        "shortened": datasets.Value("bool"),
    }
)


@dataclass(frozen=True)
class Counts:
    """What became of the rows: ``rows`` = ``kept`` + ``dropped``; ``shortened`` are among the kept.

    ``tokens`` is the length of all kept rows together, ``response_tokens`` those of them that carry the loss.
    """

    rows: int
    kept: int
    shortened: int
    dropped: int
    tokens: int
    response_tokens: int


@dataclass(frozen=True)
class Encoded:
    """``dataset`` has the columns

    - ``row``: where the row came from,
    - ``prompt``, ``response``: their whole texts, also where the tokens were shortened,
    - ``input_ids``: prompt, response, end token,
    - ``labels``: as long; -100 on the prompt, the token itself elsewhere,
    - ``prompt_length``: ``input_ids[:prompt_length]`` is what generation starts from,
    - ``shortened``: whether tokens were taken out of the prompt.
    """

    dataset: datasets.Dataset
    counts: Counts


def encode(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    style: PromptStyle = "alpaca",
    max_length: int = 1200,
    overlong: Overlong = "shorten",
) -> Encoded:
    """Tokenises the rows of ``load_task``.

    Args:
        dataset: has the columns row, instruction, input and response.
        tokenizer: its special tokens are put before the prompt (in ``"chat"`` the template has them), its end token
            after the response.
        style: of the prompt.
        max_length: most tokens of prompt, response and end token together.
        overlong: what becomes of a row that is longer. ``"shorten"`` takes the excess out of the middle of the prompt,
            where neither the instruction's beginning nor the marker before the response is lost; where that would leave
            fewer than 16 tokens of prompt, the row is dropped. ``"drop"`` drops it.

    Raises:
        HycamError: the tokenizer has no end token, or no chat template where the style needs one.
    """
    if tokenizer.eos_token_id is None:
        raise HycamError(
            f"{tokenizer.name_or_path or 'The tokenizer'} has no end token (eos_token), without which a model cannot "
            "learn where a response ends. Set one in its tokenizer_config.json."
        )
    options = {"tokenizer": tokenizer, "style": style, "max_length": max_length, "overlong": overlong}
    with _progress_on_terminal_only():
        encoded = dataset.map(
            _encode_batch,
            batched=True,
            fn_kwargs=options,
            remove_columns=dataset.column_names,
            features=_FEATURES,
            keep_in_memory=True,  # a cache on disk would have to notice every change of the tokenizer
            desc="Tokenising",
        )
    tokens = sum(map(len, encoded["input_ids"]))
    counts = Counts(
        rows=len(dataset),
        kept=len(encoded),
        shortened=sum(encoded["shortened"]),
        dropped=len(dataset) - len(encoded),
        tokens=tokens,
        response_tokens=tokens - sum(encoded["prompt_length"]),
    )
    return Encoded(encoded, counts)


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase, style: PromptStyle) -> list[list[int]]:
    """Token ids of rendered prompts, exactly as they are trained on and generated from.

    The tokenizer's own special tokens go before an Alpaca prompt (a chat prompt has them in its text); none goes behind
    it, where an end token would end the prompt.
    """
    if style == "chat":
        return tokenizer(prompts, add_special_tokens=False, **_PLAIN)["input_ids"]
    trailing = _trailing_special_tokens(tokenizer)
    return [ids[: len(ids) - trailing] for ids in tokenizer(prompts, **_PLAIN)["input_ids"]]


def _encode_batch(
    batch: dict[str, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    style: PromptStyle,
    max_length: int,
    overlong: Overlong,
) -> dict[str, list[Any]]:
    texts = zip(batch["instruction"], batch["input"], strict=True)
    prompts = [render({"instruction": one, "input": two}, style, tokenizer) for one, two in texts]
    asked = encode_prompts(prompts, tokenizer, style)
    answered = tokenizer(batch["response"], add_special_tokens=False, **_PLAIN)["input_ids"]
    columns: dict[str, list[Any]] = {name: [] for name in _FEATURES}
    for row, prompt, response, prompt_ids, ids in zip(
        batch["row"], prompts, batch["response"], asked, answered, strict=True
    ):
        response_ids = [*ids, tokenizer.eos_token_id]
        room = max_length - len(response_ids)
        shortened = len(prompt_ids) > room
        if shortened:
            if overlong == "drop" or room < LEAST_PROMPT:
                continue
            prompt_ids = _without_middle(prompt_ids, room)
        values = (
            row,
            prompt,
            response,
            prompt_ids + response_ids,
            [IGNORED] * len(prompt_ids) + response_ids,
            len(prompt_ids),
            shortened,
        )
        for name, value in zip(_FEATURES, values, strict=True):
            columns[name].append(value)
    return columns


def _without_middle(ids: list[int], room: int) -> list[int]:
    head = (room + 1) // 2
    return ids[:head] + ids[len(ids) - (room - head) :]


def _trailing_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts behind a text: an end token there would end the prompt."""
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return mask[::-1].index(0)


@contextmanager
def _progress_on_terminal_only() -> Iterator[None]:
    if sys.stderr.isatty() or not datasets.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
