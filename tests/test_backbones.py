from __future__ import annotations

import json
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.utils import logging as transformers_logging

from hycam import backbones
from hycam.errors import HycamError
from hycam.gguf import EmbeddedBackbone


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable hub, without the half minute of trying again."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole backbone as `save_pretrained` writes it, with a tokenizer that has no padding token."""
    path = tmp_path / "backbone"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path, eos_token="</s>")
    return path


def save_tokenizer(path: Path, **special: str) -> None:
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "word": 3}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(path)


def test_a_folder_gives_its_weights_in_the_wanted_type_and_in_evaluation_mode(folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        model = backbones.load(folder, dtype=dtype)
        assert not model.training
        for name, value in saved.items():
            assert torch.equal(model.state_dict()[name], value.to(dtype))


def test_a_path_may_be_text_and_relative_and_begin_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for spelling in ("backbone", "./backbone", "~/backbone", str(folder)):
        assert backbones.load(spelling).config.hidden_size == 16
        assert backbones.config(spelling).hidden_size == 16


def test_a_tokenizer_without_padding_pads_with_its_end_token(folder: Path) -> None:
    tokenizer = backbones.load_tokenizer(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("</s>", 1)


def test_a_tokenizer_keeps_its_own_padding(folder: Path) -> None:
    save_tokenizer(folder, eos_token="</s>", pad_token="<unk>")
    assert backbones.load_tokenizer(folder).pad_token == "<unk>"


def test_a_tokenizer_without_an_end_token_is_refused(folder: Path) -> None:
    save_tokenizer(folder)
    with pytest.raises(HycamError, match=f"The tokenizer of {folder} has no end token"):
        backbones.load_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(HycamError, match=f"{folder}"):
        backbones.load_tokenizer(folder)


def test_a_tokenizer_made_of_nothing_but_special_tokens_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # for which transformers makes a tokenizer out of no file at all
    with pytest.raises(HycamError, match="holds no tokenizer"):
        backbones.load_tokenizer(tmp_path)


@pytest.mark.parametrize("ask", [backbones.load, backbones.load_tokenizer, backbones.config])
class TestEveryQuestionRefuses:
    def test_a_misspelt_short_name_with_the_nearest(self, ask) -> None:
        with pytest.raises(HycamError, match=r'called "smolm2-135M"\. Did you mean "smollm2-135m"\?.*owner/name'):
            ask("smolm2-135M")

    def test_a_path_that_is_not_there(self, ask, tmp_path: Path) -> None:
        with pytest.raises(HycamError, match=f"There is no folder {tmp_path}/nowhere"):
            ask(tmp_path / "nowhere")

    def test_a_file(self, ask, tmp_path: Path) -> None:
        (tmp_path / "model.bin").touch()
        with pytest.raises(HycamError, match=r"model\.bin is a file"):
            ask(tmp_path / "model.bin")

    def test_a_folder_without_a_model(self, ask, tmp_path: Path) -> None:
        with pytest.raises(HycamError, match=r"is not a backbone: it has no config\.json"):
            ask(tmp_path)

    def test_an_adapter(self, ask, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(HycamError, match="holds an adapter, not a backbone"):
            ask(folder)

    def test_a_hub_that_cannot_be_reached(self, ask) -> None:
        with pytest.raises(HycamError, match=r"nobody/nothing cannot be read: .*network.*HF_HUB_OFFLINE"):
            ask("nobody/nothing")

    def test_a_name_that_no_hub_could_have(self, ask) -> None:
        with pytest.raises(HycamError, match="two words/nothing cannot be read"):
            ask("two words/nothing")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"model_type": ', "not a valid JSON"),
        ("{}", "model_type"),
        ('{"model_type": "lama"}', "`lama`"),
        (json.dumps({"auto_map": {"AutoConfig": "own.Code", "AutoModelForCausalLM": "own.Code"}}), "trust_remote_code"),
        (json.dumps(T5Config().to_dict()), "AutoModelForCausalLM"),
    ],
)
def test_a_configuration_of_no_known_causal_model_is_refused(folder: Path, written: str, told: str) -> None:
    (folder / "config.json").write_text(written)
    (folder / "own.py").write_text("raise SystemExit('code out of a model folder was run')")
    with pytest.raises(HycamError, match=f"{folder} cannot be read: .*{told}"):
        backbones.load(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(HycamError, match=f"{folder} cannot be read: "):
        backbones.load(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(HycamError, match=r"weights in pytorch_model\.bin, which is a pickle.*safetensors"):
        backbones.load(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 65}))
    with pytest.raises(HycamError, match=f"{folder} cannot be read: "):
        backbones.load(folder)


def test_weights_that_lack_a_part_are_refused_and_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HycamError, match=r"weights lack lm_head\.weight and 1 more"):
        backbones.load(folder)


def test_the_configuration_of_a_short_name_needs_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedBackbone, "folder", lambda self: pytest.fail("unpacked"))
    first = backbones.config("smollm2-135m")
    assert (first.hidden_size, first.num_hidden_layers, first.vocab_size) == (576, 30, 49152)
    first.hidden_size = 1
    assert backbones.config("smollm2-135m").hidden_size == 576


@pytest.mark.parametrize("terminal", [True, False])
def test_loading_bars_are_for_terminals_and_the_setting_is_put_back(
    terminal: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    load_weights = backbones.AutoModelForCausalLM.from_pretrained

    def spy(*args, **kwargs):
        shown.append(transformers_logging.is_progress_bar_enabled())
        return load_weights(*args, **kwargs)

    monkeypatch.setattr(backbones.AutoModelForCausalLM, "from_pretrained", spy)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    transformers_logging.enable_progress_bar()
    backbones.load(folder)
    assert shown == [terminal]
    assert transformers_logging.is_progress_bar_enabled()
