"""Texts to token ids.

A chat is tokenised as the one text that its template writes and cut by the offsets of the tokens, so that its ids are
the template's own: a tokenizer of SentencePiece's kind begins every text that it is given with a mark of its own, and
so would begin every piece. Other prompts are tokenised apart from their responses, so that no token spans the boundary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from hycam.data.chat_template import called, end_token
from hycam.data.prompts import Turn
from hycam.data.recipe import Turns
from hycam.errors import HycamError

# verbose: what is too long is dealt with here, the tokenizer's own warning about it would mislead.
PLAIN: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
_BARE: dict[str, Any] = {"add_special_tokens": False, **PLAIN}
_ANSWER = "answer"  # behind a prompt, so that it is tokenised as in front of one
_SHOWN = 20  # characters on either side of a place

Run = tuple[int, bool]
"""So many tokens in a row, and whether they carry the loss."""


class Tokens(NamedTuple):
    """The ids of a row, the ``runs`` that they are made of, and where the last response begins (``prompt_length``)."""

    ids: list[int]
    runs: list[Run]
    prompt_length: int


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    """Token ids of rendered prompts, exactly as they are trained on and generated from.

    The tokenizer's own special tokens go before a prompt (a chat prompt has them in its text); none goes behind it,
    where an end token would end the prompt. The prompt of a chat has the tokens that it has in front of an answer.
    """
    return _openings(prompts, tokenizer) if style == "chat" else encode_texts(prompts, tokenizer, style)


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    """Token ids of texts that nothing is to follow; special tokens as in :func:`encode_prompts`."""
    if style == "chat":
        return tokenizer(texts, **_BARE)["input_ids"]
    trailing = _trailing_special_tokens(tokenizer)
    return [ids[: len(ids) - trailing] for ids in tokenizer(texts, **PLAIN)["input_ids"]]


def apart(
    examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, style: str, turns: Turns
) -> list[Tokens | HycamError]:
    """Each piece of each example tokenised alone, with the end token behind each answer."""
    end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, style)))
    begun = encode_prompts([example[0].before for example in examples], tokenizer, style)
    later = [text for example in examples for text in [*chain.from_iterable(example)][1:]]
    others = iter(tokenizer(later, **_BARE)["input_ids"])
    found: list[Tokens | HycamError] = []
    for example, ids in zip(examples, begun, strict=True):
        runs = [(len(ids), False)]
        for number in range(len(example)):
            before = next(others) if number else []
            answer = [*next(others), end]
            begin = len(ids) + len(before)
            ids = [*ids, *before, *answer]
            is_trained = turns == "all" or number == len(example) - 1
            runs += [(len(before), False), (len(answer), is_trained)] if number else [(len(answer), is_trained)]
        found.append(Tokens(ids, runs, begin))
    return found


def whole(examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase, turns: Turns) -> list[Tokens | HycamError]:
    """Each chat tokenised as one text; an error in place of one that cannot be cut where an answer begins or ends."""
    end = end_token(tokenizer, "chat")
    pieces = [[piece for before, answer in example for piece in (before, answer + end)] for example in examples]
    texts = ["".join(each) for each in pieces]
    added = frozenset(tokenizer.added_tokens_decoder)
    found: list[Tokens | HycamError] = []
    begun: list[tuple[int, int, _Opening]] = []  # number of the chat, place in its text, and what stands before it
    for text, each, (ids, offsets) in zip(texts, pieces, _encoded(texts, tokenizer), strict=True):
        places = [*accumulate(map(len, each))]
        edges = _edges(text, places, ids, offsets, added, tokenizer)
        lost = [place for place, edge in zip(places, edges, strict=True) if edge is None]
        if lost:
            found.append(_uncut(text, lost[0], tokenizer))
            continue
        inner = cast(list[int], edges)
        sizes = [stop - start for start, stop in pairwise([0, *inner])]
        last = len(sizes) - 1
        runs = [(size, n % 2 == 1 and (turns == "all" or n == last)) for n, size in enumerate(sizes)]
        if offsets is not None:
            begun += [
                (len(found), place, _opening(text[:place], ids[:edge], offsets, added))
                for place, edge in zip(places[::2], inner[::2], strict=True)
            ]
        found.append(Tokens(ids, runs, inner[-2]))
    # Nearly all chats of a template open their answers with the same few words, which are looked at once.
    openings = list({opening.text for _, _, opening in begun})
    alone = dict(zip(openings, _openings(openings, tokenizer), strict=True))
    for number, place, opening in begun:
        if alone[opening.text] != opening.ids:
            found[number] = HycamError(
                f"{called(tokenizer)} makes other tokens of the prompt {opening.text!r} in front of this answer, which "
                f"begins with {texts[number][place : place + _SHOWN]!r}, than where it is asked for one. Have the "
                'answer begin with a word, leave the row out, or use the prompt "alpaca".'
            )
    return found


class _Opening(NamedTuple):
    """The end of a prompt, from the last added token in it, and its ids in front of the row's answer.

    Added tokens are taken out of a text before all else, so that nothing across them matters to the ids.
    """

    text: str
    ids: list[int]


def _opening(prompt: str, ids: list[int], offsets: list[tuple[int, int]], added: frozenset[int]) -> _Opening:
    last = next((number for number in reversed(range(len(ids))) if ids[number] in added), None)
    return _Opening(prompt, ids) if last is None else _Opening(prompt[offsets[last][0] :], ids[last:])


def _openings(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of prompts as they are in front of an answer, which matters where white space ends them.

    Where one token spans the end of the prompt and an answer, they are those of the prompt alone.
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
    """Ids and the characters of each token, one text at a time; None where a tokenizer in Python does not know them."""
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
    """How many tokens stand before each place in a text; None where it is inside of a token."""
    if offsets is None:
        before = encode_texts([text[:place] for place in places], tokenizer, "chat")
        return [len(each) if ids[: len(each)] == each else None for each in before]
    found: list[int | None] = []
    for place in places:
        edge = bisect_left(offsets, place, key=itemgetter(0))
        reaches = offsets[edge - 1][1] if edge else 0
        # An added token may take up the white space behind it, which is then no token's text.
        is_inside = reaches > place and (ids[edge - 1] not in added or text[place:reaches].strip() != "")
        found.append(None if is_inside else edge)
    return found


def _uncut(text: str, place: int, tokenizer: PreTrainedTokenizerBase) -> HycamError:
    before, after = text[max(0, place - _SHOWN) : place], text[place : place + _SHOWN]
    return HycamError(
        f"{called(tokenizer)} has no token that ends at character {place:,} of the chat, between {before!r} and "
        f"{after!r}, as it does where it is asked for an answer: a model that is asked could not write this one. Take "
        'white space off the beginning of the answer, leave the row out, or use the prompt "alpaca".'
    )


def _trailing_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts behind a text: an end token there would end the prompt."""
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return mask[::-1].index(0)
