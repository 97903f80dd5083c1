"""Tokens as a reader can tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_UNREADABLE = "\ufffd"  # what a decoder makes of a part of a character


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token as text, with blanks written out (a space as a middle dot); a part of a character by its name."""
    texts = []
    for number in ids:
        text = str(tokenizer.decode([number]))
        if not text or _UNREADABLE in text:
            text = str(tokenizer.convert_ids_to_tokens(number))
        texts.append(text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r").replace(" ", "·"))
    return texts
