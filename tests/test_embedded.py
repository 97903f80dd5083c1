"""What wheels carry, on small files of the same kinds that are made here, and Llama-3's own tokenizer.

The real backbone is in test_smollm2.py.
"""

from __future__ import annotations

import base64
import logging
import resource
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import regex
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from hycam import backbones, embedded
from hycam.downloads import LLAMA_MODELS, wheel_member
from hycam.embedded import EmbeddedBackbone
from hycam.errors import HycamError

WORDS = ["<|end|>", "<|start|>", "a", "b", "c", "Ġ", "ab", "Ġc"]
WIDTH, INNER, HEADS, KEY_HEADS = 64, 96, 4, 2
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"


def write_gguf(path: Path) -> None:
    """A Llama of one layer with 4-bit weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3] + [1] * (len(WORDS) - 2))
    writer.add_token_merges(["a b", "Ġ c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    key_width = WIDTH // HEADS * KEY_HEADS
    shapes = {
        "token_embd": (len(WORDS), WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (key_width, WIDTH),
        "blk.0.attn_v": (key_width, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "output_norm": (WIDTH,),
    }
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wheel" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path)
    return path


@pytest.fixture
def backbone(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedBackbone:
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "wheel_member", lambda wheel, member: source)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    return replace(embedded.SMOLLM2_135M, name="tiny", config=config)


@pytest.fixture
def full_disk(request: pytest.FixtureRequest) -> Iterator[None]:
    """No file may grow beyond 10,000 bytes, which is less than the weights need."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_model_of_the_gguf_file_to_the_last_bit(backbone: EmbeddedBackbone, source: Path) -> None:
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    kept = AutoModelForCausalLM.from_pretrained(backbone.folder(), use_safetensors=True)
    ids = torch.tensor([[1, 2, 3, 4, 7, 6]])
    assert torch.equal(kept(ids).logits, read(ids).logits)
    assert isinstance(kept, LlamaForCausalLM) and kept.dtype == torch.float32
    assert kept.lm_head.weight is kept.model.embed_tokens.weight
    assert not hasattr(kept.config, "quantization_config")
    assert (kept.generation_config.eos_token_id, kept.generation_config.pad_token_id) == (0, 0)


def test_the_tokenizer_keeps_its_chat_template_and_knows_the_context_length(backbone: EmbeddedBackbone) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone.folder())
    assert tokenizer("ab c")["input_ids"] == [6, 7]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("<|end|>", "<|end|>", 512)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert chat == "ab<|end|>"


def test_the_second_call_reads_no_gguf(
    backbone: EmbeddedBackbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = backbone.folder()
    caplog.clear()
    monkeypatch.setattr(embedded, "wheel_member", lambda wheel, member: pytest.fail("fetched again"))
    with caplog.at_level(logging.INFO):
        assert backbone.folder() == folder
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "harm"), [("model.safetensors", "cut"), ("config.json", "zeroed"), ("tokenizer.json", "gone")]
)
def test_a_damaged_folder_is_made_again_with_a_warning(
    name: str, harm: str, backbone: EmbeddedBackbone, caplog: pytest.LogCaptureFixture
) -> None:
    folder = backbone.folder()
    whole = content(folder)
    path = folder / name
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[name][:-20] if harm == "cut" else bytes(len(whole[name])))
    assert backbone.folder() == folder
    assert content(folder) == whole
    assert any("is damaged" in message and str(folder) in message for message in caplog.messages)


def test_no_room_on_the_disk_is_told_and_leaves_nothing(
    backbone: EmbeddedBackbone, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("full_disk")
    with pytest.raises(HycamError, match=r"Could not write .*backbones/tiny: .*Make room, or set HYCAM_CACHE"):
        backbone.folder()
    assert content(tmp_path / "cache") == {}


def test_a_process_that_comes_second_takes_what_the_first_made(
    backbone: EmbeddedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = EmbeddedBackbone._dequantise
    first: list[Path] = []

    def slow(self: EmbeddedBackbone, folder: Path) -> None:
        make(self, folder)
        if not first:  # while this one was busy, another began and finished
            first.append(folder)
            self.folder()

    monkeypatch.setattr(EmbeddedBackbone, "_dequantise", slow)
    folder = backbone.folder()
    assert first and AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    assert [path.name for path in folder.parent.parent.iterdir()] == ["backbones"]


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
# What Llama-3 cuts a text into, written down here once more: merges stay within one of these.
WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_a_tokenizer_merges_by_rank_and_its_special_tokens_follow_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"cd", b"abc", b"abcd", b" ab"]
    ranks = tmp_path / "ranks"
    ranks.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "wheel_member", lambda wheel, member: ranks)
    small = replace(
        embedded.LLAMA_3, name="small", special_tokens=("<b>", "<e>", "<p>"), begin="<b>", end="<e>", padding="<p>"
    )
    tokenizer = AutoTokenizer.from_pretrained(small.folder())
    ids = tokenizer(["abcd", "xabc", "ab cd", "a b"], add_special_tokens=False)["input_ids"]
    assert ids == [[259], [ord("x"), 258], [256, ord(" "), 257], [ord("a"), ord(" "), ord("b")]]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (261, 262, 263)
    assert tokenizer("ab")["input_ids"] == [261, 256]


def test_a_tokenizer_is_no_backbone() -> None:
    for ask in (backbones.config, backbones.load):
        with pytest.raises(HycamError, match=r"Of llama-3 only the tokenizer .* Name a folder that holds the model"):
            ask("llama-3")


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

    def test_ids_are_those_of_merging_by_rank(self, tokenizer: PreTrainedTokenizerBase) -> None:
        lines = wheel_member(LLAMA_MODELS, LLAMA_MODELS.members[0]).read_bytes().splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
        texts = [*ODD, Path(backbones.__file__).read_text()]
        for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            assert tokenizer.decode(ids) == text
            words = regex.findall(WORD, text)
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
