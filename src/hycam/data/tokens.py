"""From turns to token ids and labels.

A chat is tokenised as one text, as its template writes it, and cut at token offsets, so that its ids are the
template's own: tokenizers like SentencePiece begin each text with a mark of their own, and would do so for each piece.
Other prompts are tokenised separately from their responses. Either way no token spans the boundary, so generation
starts from exactly the prompt that was trained.

The loss covers only the responses and their end tokens (Eq. 13). Labels are masked by position, because many tokenizers
use the end token as padding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, NamedTuple, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from hycam.data.chat import Turn, called, end_token
from hycam.data.prompts import Form
from hycam.errors import HycamError
from hycam.labelled import IGNORED

LEAST_PROMPT = 16  # a shorter rest of a prompt would be meaningless

# verbose: the tokenizer would warn of long texts, which are shortened here.
PLAIN: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
_BARE: dict[str, Any] = {"add_special_tokens": False, **PLAIN}
_ANSWER = "answer"  # follows a prompt, so that the prompt is tokenised as it is before an answer
_SHOWN = 20  # characters to show on either side of a place
_PLENTY = 32  # characters a token: if a text has far more for each token that fits, its ends are enough


class Tokens(NamedTuple):
    """``ids`` and ``labels`` of a row, int32 ``[n]``; the last response begins at ``prompt_length``."""

    ids: np.ndarray
    labels: np.ndarray
    prompt_length: int

    def fitted(self, form: Form) -> Tokens | None:
        """The row, without the middle of its prompt if it is too long; None if it is dropped."""
        room = form.max_length - (len(self.ids) - self.prompt_length)
        if self.prompt_length <= room:
            return self
        if form.overlong == "drop" or room < LEAST_PROMPT:
            return None
        cut = slice((room + 1) // 2, self.prompt_length - room // 2)
        return Tokens(np.delete(self.ids, cut), np.delete(self.labels, cut), room)


def tokenised(examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, form: Form) -> list[Tokens | HycamError]:
    """The tokens of each row's turns, or an error if a chat cannot be cut at its answers."""
    if not examples:
        return []
    cut = [[Turn(*(_without_middle(text, tokenizer, form) for text in turn)) for turn in turns] for turns in examples]
    return _whole(cut, tokenizer, form) if form.prompt == "chat" else _apart(cut, tokenizer, form)


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    """Token ids of rendered prompts, exactly as in training and generation.

    The tokenizer's special tokens go before a prompt (a chat prompt contains them) but not after it, where an end token
    would end the prompt. A chat prompt has the tokens that it has before an answer.
    """
    return _openings(prompts, tokenizer) if style == "chat" else encode_texts(prompts, tokenizer, style)


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    """Token ids of texts that nothing follows; special tokens as in :func:`encode_prompts`."""
    if style == "chat":
        return tokenizer(texts, **_BARE)["input_ids"]
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    trailing = mask[::-1].index(0)
    return [ids[: len(ids) - trailing] for ids in tokenizer(texts, **PLAIN)["input_ids"]]


def _labelled(ids: list[int], answers: list[tuple[int, int]], form: Form) -> Tokens:
    """The tokens of a row whose answers, with their end tokens, are ``ids[begin:end]``."""
    row = np.array(ids, dtype=np.int32)
    labels = np.full_like(row, IGNORED)
    for begin, end in answers if form.turns == "all" else answers[-1:]:
        labels[begin:end] = row[begin:end]
    return Tokens(row, labels, answers[-1][0])


def _apart(examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, form: Form) -> list[Tokens | HycamError]:
    """Each text of each example tokenised alone, with the end token after each answer."""
    end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, form.prompt)))
    begun = encode_prompts([turns[0].before for turns in examples], tokenizer, form.prompt)
    others = iter(tokenizer([text for turns in examples for text in [*chain(*turns)][1:]], **_BARE)["input_ids"])
    found: list[Tokens | HycamError] = []
    for turns, first in zip(examples, begun, strict=True):
        ids = [*first]
        answers = []
        for number in range(len(turns)):
            if number:
                ids += next(others)
            begin = len(ids)
            ids += [*next(others), end]
            answers.append((begin, len(ids)))
        found.append(_labelled(ids, answers, form))
    return found


def _whole(examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, form: Form) -> list[Tokens | HycamError]:
    """Each chat tokenised as one text, or an error if it cannot be cut where an answer begins or ends."""
    end = end_token(tokenizer, "chat")
    pieces = [[piece for before, answer in turns for piece in (before, answer + end)] for turns in examples]
    texts = ["".join(each) for each in pieces]
    added = frozenset(tokenizer.added_tokens_decoder)
    found: list[Tokens | HycamError] = []
    begun: list[tuple[int, int, _Opening]] = []  # number of the chat, place in its text, the text before
    for text, each, (ids, offsets) in zip(texts, pieces, _encoded(texts, tokenizer), strict=True):
        places = [*accumulate(map(len, each))]
        edges = _edges(text, places, ids, offsets, added, tokenizer)
        lost = [place for place, edge in zip(places, edges, strict=True) if edge is None]
        if lost:
            found.append(_uncut(text, lost[0], tokenizer))
            continue
        known = cast(list[int], edges)
        if offsets is not None:
            begun += [
                (len(found), place, _opening(text[:place], ids[:edge], offsets, added))
                for place, edge in zip(places[::2], known[::2], strict=True)
            ]
        found.append(_labelled(ids, [*zip(known[::2], known[1::2], strict=True)], form))
    # Nearly all chats of a template open their answers with the same few words, so each text is tokenised once.
    openings = list({opening.text for _, _, opening in begun})
    alone = dict(zip(openings, _openings(openings, tokenizer), strict=True))
    for number, place, opening in begun:
        if alone[opening.text] != opening.ids:
            found[number] = HycamError(
                f"{called(tokenizer)} tokenises the prompt {opening.text!r} differently before this answer, which "
                f"begins with {texts[number][place : place + _SHOWN]!r}, than in a generation prompt. Begin the "
                'answer with a word, remove the row, or use the prompt "alpaca".'
            )
    return found


class _Opening(NamedTuple):
    """The end of a prompt, from its last added token, and its ids before the row's answer.

    A tokenizer splits a text at added tokens first, so nothing before the last one affects the ids after it.
    """

    text: str
    ids: list[int]


def _opening(prompt: str, ids: list[int], offsets: list[tuple[int, int]], added: frozenset[int]) -> _Opening:
    last = next((number for number in reversed(range(len(ids))) if ids[number] in added), None)
    return _Opening(prompt, ids) if last is None else _Opening(prompt[offsets[last][0] :], ids[last:])


def _openings(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of prompts before an answer, which may differ from those of a prompt alone if it ends in white space.

    If one token would span prompt and answer, the ids are those of the prompt alone.
    """
    if not prompts:
        return []
    added = frozenset(tokenizer.added_tokens_decoder)
    texts = [prompt + _ANSWER for prompt in prompts]
    found = []
    for prompt, text, (ids, offsets) in zip(prompts, texts, _encoded(texts, tokenizer), strict=True):
        (edge,) = _edges(text, [len(prompt)], ids, offsets, added, tokenizer)
        found.append(encode_texts([prompt], tokenizer, "chat")[0] if edge is None else ids[:edge])
    return found


def _encoded(
    texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[tuple[int, int]] | None]]:
    """Ids and offsets of each text; offsets are None for a tokenizer in pure Python, which has none."""
    batch = tokenizer(texts, **_BARE)
    if batch.encodings is None:
        yield from ((ids, None) for ids in batch["input_ids"])
    else:
        yield from ((encoding.ids, encoding.offsets) for encoding in batch.encodings)


def _edges(
    text: str,
    places: list[int],
    ids: list[int],
    offsets: list[tuple[int, int]] | None,
    added: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[int | None]:
    """How many tokens precede each place in a text; None if the place is inside a token."""
    if offsets is None:
        before = encode_texts([text[:place] for place in places], tokenizer, "chat")
        return [len(each) if ids[: len(each)] == each else None for each in before]
    found: list[int | None] = []
    for place in places:
        edge = bisect_left(offsets, place, key=itemgetter(0))
        reaches = offsets[edge - 1][1] if edge else 0
        # An added token may swallow the white space after it, which then belongs to no other token.
        is_inside = reaches > place and (ids[edge - 1] not in added or text[place:reaches].strip() != "")
        found.append(None if is_inside else edge)
    return found


def _uncut(text: str, place: int, tokenizer: PreTrainedTokenizerBase) -> HycamError:
    before, after = text[max(0, place - _SHOWN) : place], text[place : place + _SHOWN]
    return HycamError(
        f"{called(tokenizer)} has no token that ends at character {place:,} of the chat, between {before!r} and "
        f"{after!r}, where the generation prompt ends: a model could not generate this answer. Remove white space from "
        'the beginning of the answer, remove the row, or use the prompt "alpaca".'
    )


def _without_middle(text: str, tokenizer: PreTrainedTokenizerBase, form: Form) -> str:
    """``text`` without its middle if it is many times longer than any row that fits.

    Each remaining end has more tokens than a row may have, so the result is the same: the row is shortened to the same
    tokens, or dropped. Tokenising a row of 100 MB would take gigabytes.
    """
    most = form.max_length * _PLENTY
    while len(text) > 2 * most:
        ends = [text[:most], text[-most:]]
        if min(map(len, encode_texts(ends, tokenizer, "chat"))) > form.max_length:
            return "".join(ends)
        most *= 4  # long blanks or unknown words may be single tokens
    return text
