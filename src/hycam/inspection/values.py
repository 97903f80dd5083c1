"""Where an attention module makes its values: the projection, and which of its outputs they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedConfig

from hycam.errors import HycamError

# Query, key and value in one product, one after another, the values last and as wide as the keys. Architectures that
# mix them head by head (GPT-NeoX, Falcon, GPT-BigCode) or compress them (DeepSeek) are not among them.
_FUSED = {"gpt2": "c_attn", "mpt": "Wqkv", "phi3": "qkv_proj"}


def value_projection(attention: nn.Module, config: PreTrainedConfig) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that makes an attention module's values, and a function that takes them out of what it returns.

    Args:
        attention: an attention module, adapted or not.
        config: the backbone's, of its text part.

    Raises:
        HycamError: the architecture has no value projection of its own, and where its values lie is not known.
    """
    for name, module in attention.named_modules():
        own_name = name.rpartition(".")[2]
        if own_name == "v_proj":
            return module, lambda output: output
        if own_name == _FUSED.get(config.model_type):
            return module, lambda output: output[..., (output.shape[-1] + config.hidden_size) // 2 :]
    linear = {name.rpartition(".")[2] for name, module in attention.named_modules() if isinstance(module, nn.Linear)}
    raise HycamError(
        f"Where {config.model_type} makes its values is not known: its attention has "
        f"{', '.join(sorted(linear)) or 'no linear layer'} and no v_proj. Representations can be taken of "
        f"architectures with a value projection of their own, and of {', '.join(sorted(_FUSED))}."
    )
