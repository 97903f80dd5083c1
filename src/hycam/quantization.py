"""Backbones whose linear layers are held in 8 or 4 bits, by bitsandbytes through transformers.

``8bit`` is LLM.int8() (https://arxiv.org/abs/2208.07339), ``4bit`` is NF4 with quantised scales, as QLoRA has it
(https://arxiv.org/abs/2305.14314). Embeddings, norms and the head keep the type that the backbone is loaded in, and
that is also the type that 4-bit layers compute in.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from hycam.errors import HycamError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # transformers 4 spells it otherwise

Quantization = Literal["8bit", "4bit"]

_FIRST_ON_A_CPU = "0.50"  # of bitsandbytes
_NOISY = "bitsandbytes.autograd._functions"


def check_quantization(quantization: Quantization, device: torch.device) -> None:
    """Checks that backbones can be quantised here. Loads none.

    Raises:
        HycamError: bitsandbytes is missing, too old, or does not support this kind of device.
    """
    if quantization not in ("8bit", "4bit"):
        raise HycamError(f'quantization is "{quantization}": 8bit or 4bit was expected, or null for none.')
    if not is_bitsandbytes_available(_FIRST_ON_A_CPU):
        raise HycamError(
            f"quantization={quantization} needs the package bitsandbytes, {_FIRST_ON_A_CPU} or later: pip install "
            "'hycam[quantization]', or leave quantization at null."
        )
    quiet_bitsandbytes()
    import bitsandbytes

    known = sorted(bitsandbytes.supported_torch_devices)
    if device.type not in known:
        raise HycamError(
            f"quantization={quantization} does not work on {device.type}: bitsandbytes {bitsandbytes.__version__} "
            f"works on {', '.join(known)}. Train elsewhere, or leave quantization at null."
        )


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The settings with which transformers quantises a backbone as it loads it."""
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def quantized_before(config: PreTrainedConfig) -> str | None:
    """How the weights are already quantised, such as ``"bitsandbytes"``; None if they are not."""
    kept = getattr(config, "quantization_config", None)
    if kept is None:
        return None
    method = kept.get("quant_method") if isinstance(kept, dict) else kept.quant_method
    return str(getattr(method, "value", method))


def keep_weights(model: nn.Module) -> None:
    """Keeps 4-bit layers from rearranging their weights, in place.

    On a CPU with AVX512-BF16, bitsandbytes lays the weights of a layer out anew the first time that it runs without
    gradients, for faster decoding. The new layout has its scales in bfloat16 and no backward pass: after the first
    validation the model would be another one, and gradients would silently stop at such a layer.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False


def quiet_bitsandbytes() -> None:
    """Silences what bitsandbytes logs in every forward of every layer."""
    logging.getLogger(_NOISY).setLevel(logging.ERROR)
