"""A context and what follows it, as one row of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from hycam.data.tokens import encode_prompts, encode_texts

AS_IT_IS = "{instruction}"
"""The prompt form of a text that is put in front of the model without anything around it."""


class Continued(NamedTuple):
    """The ``ids`` of a context and its continuation, which begins at ``start``."""

    ids: list[int]
    start: int


def joined(
    contexts: Sequence[str], continuations: Sequence[str], tokenizer: PreTrainedTokenizerBase, style: str = AS_IT_IS
) -> list[Continued]:
    """Context and continuation tokenised as one text, as a model meets them; the tokens of the context go before.

    The blank between the two belongs to the continuation, so that nearly every tokenizer (of words or of their
    beginnings, byte-level or SentencePiece) begins a token at it. Tokenised apart, SentencePiece would put a second
    blank there. Where one token spans the boundary all the same, the continuation begins with that token.

    Args:
        contexts: texts, as many as ``continuations``.
        continuations: texts.
        tokenizer: puts its own special tokens before a context, and none behind a continuation.
        style: ``"chat"`` where the special tokens stand in the contexts.
    """
    before = encode_prompts(list(contexts), tokenizer, style)
    whole = encode_texts([a + b for a, b in zip(contexts, continuations, strict=True)], tokenizer, style)
    return [Continued(ids, _shared(first, ids)) for first, ids in zip(before, whole, strict=True)]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
