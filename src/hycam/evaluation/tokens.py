"""What counts as a word when answers are compared with references: chosen once per task, by its references."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from typing import Literal

from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, related scripts, Chinese characters and
# kana. Korean syllables are not among them, since Korean has spaces.
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u3007"
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fbb\uf900-\ufaff]")  # what sacrebleu's tokenizer "zh" sets apart
_ENGLISH = re.compile("[A-Za-z0-9]")

# Share of all characters. English prose has up to 1 % of foreign names and symbols, German 1.8 %, French 4 %.
_MOST_FOREIGN = 0.015
# Beyond this share, n-grams of words cannot show what an answer has in common with its reference.
_MANY_UNSEGMENTED = 0.1


@dataclass(frozen=True)
class Tokens:
    """What BLEU-4 and ROUGE-L count.

    Attributes:
        bleu: sacrebleu's tokenizer: ``13a`` (words), ``zh`` (words, and each Chinese character) or ``char``.
        rouge: ``a-z0-9``: lower-cased runs of these, as in rouge-score. ``unicode``: lower-cased words of any script,
            and single characters of scripts without spaces and emoji.
    """

    bleu: Literal["13a", "zh", "char"] = "13a"
    rouge: Literal["a-z0-9", "unicode"] = "a-z0-9"

    @property
    def rouge_tokenizer(self) -> Tokenizer:
        """For rouge-score."""
        return DefaultTokenizer() if self.rouge == "a-z0-9" else UnicodeTokenizer()


ENGLISH = Tokens()
"""Those of the published figures."""


def tokens_of(references: Iterable[str]) -> Tokens:
    """The tokens for these references: those of English, unless much of the text is in other scripts."""
    counts = Counter(chain.from_iterable(references))
    written = {character: number for character, number in counts.items() if _kind(character)}
    total = sum(written.values())
    if not total:
        return ENGLISH
    foreign, single, chinese = (
        sum(number for character, number in written.items() if is_such(character))
        for is_such in (lambda one: not _ENGLISH.match(one), lambda one: _kind(one) == _SINGLE, _CHINESE.match)
    )
    if foreign <= _MOST_FOREIGN * total:
        return ENGLISH
    if single < _MANY_UNSEGMENTED * total:
        return Tokens("13a", "unicode")
    return Tokens("zh" if chinese > (1 - _MANY_UNSEGMENTED) * single else "char", "unicode")


class UnicodeTokenizer(Tokenizer):
    """Words of any script for rouge-score, see :class:`Tokens`."""

    def tokenize(self, text: str) -> list[str]:
        found: list[str] = []
        for kind, characters in groupby(text.lower(), _kind):
            if kind == _SINGLE:
                found += characters
            elif kind == _WORD:
                found.append("".join(characters))
        return found


_WORD, _SINGLE = "word", "single"


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str | None:
    """Whether a character is part of a word, a token of its own, or neither."""
    category = unicodedata.category(character)
    if category == "So" or (category[0] in "LMN" and _UNSEGMENTED.match(character)):
        return _SINGLE
    return _WORD if category[0] in "LMN" else None  # marks included: without its vowel signs a Hindi word falls apart
