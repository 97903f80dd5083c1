"""Where the attention modules of a backbone are, found by structure and not by a list of architectures.

An attention module is a module inside a block of the backbone whose ``forward`` takes ``hidden_states``, a mask and a
key-value cache. The cache is what tells it from a feed-forward network, from a vision or audio tower and from a
state-space mixer (those take ``cache_params``), and it holds for every causal language model in ``transformers``.
"""

from __future__ import annotations

import inspect

from torch import nn

from hycam.errors import HycamError

_CACHE = {"past_key_values", "past_key_value", "layer_past"}
_CROSS = ("cross", "encoder_attn")
# A module that receives one of these adds the residual stream itself, so its output is not the attention output.
_RESIDUAL = {"residual", "input_tensor"}


def find_attention_modules(model: nn.Module) -> list[str]:
    """Names of the self-attention modules of a causal language model, in the order of the layers.

    Args:
        model: a ``transformers`` model, possibly with HyCAM adapters attached already.

    Raises:
        HycamError: no attention module is found, or the ones there are add the residual stream inside themselves
            (Bloom, BERT), so that their output cannot be scaled apart from it.
    """
    modules = dict(model.named_modules())
    blocks = {f"{name}.{index}" for name, module in modules.items() if isinstance(module, nn.ModuleList)
              for index in range(len(module))}  # fmt: skip
    takes_cache = {
        name.removesuffix(".base_layer")
        for name, module in modules.items()
        if name not in blocks and _looks_like_attention(module) and not any(word in name for word in _CROSS)
    }
    # Where one such module holds another (a wrapper around the real one), the inner one is the attention.
    outer = {name.rpartition(".")[0] for name in takes_cache}
    outer |= {prefix for name in outer for prefix in _prefixes(name)}
    found = [name for name in modules if name in takes_cache and name not in outer]
    kind = type(model).__name__
    if not found:
        raise HycamError(
            f"{kind} has no module that takes hidden_states, a mask and a key-value cache, so HyCAM finds no attention "
            "output to modulate. It adapts causal language models with attention."
        )
    for name in found:
        enclosing = [name, *(prefix for prefix in _prefixes(name) if prefix in takes_cache)]
        for outermost in enclosing:
            for part_name, part in modules[outermost].named_modules():
                if _RESIDUAL & set(_parameters(part)):
                    where = f"{outermost}.{part_name}".rstrip(".")
                    raise HycamError(
                        f"{kind} cannot be adapted: {where} ({type(part).__name__}) adds the residual stream inside "
                        "the attention module, so the attention output cannot be scaled apart from it."
                    )
    return found


def hidden_states_position(module: nn.Module) -> int:
    """At which position ``module.forward`` takes ``hidden_states`` when it is passed without its name."""
    return list(_parameters(module)).index("hidden_states")


def _looks_like_attention(module: nn.Module) -> bool:
    names = set(_parameters(module))
    return "hidden_states" in names and bool(_CACHE & names) and any("mask" in name for name in names)


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
