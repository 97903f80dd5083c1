"""Where the attention modules of a backbone and the norms around them are, found by structure and not by a list.

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
    blocks = _blocks(modules)
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


def find_block_norms(model: nn.Module, attention: list[str]) -> list[str]:
    """Names of the norms that have weights in the blocks of these attention modules, in the order of the blocks.

    They are those that a block holds itself: neither the norms inside its attention or feed-forward module nor the
    final norm of the backbone.
    """
    modules = dict(model.named_modules())
    blocks = _blocks(modules)
    innermost = [name for module in attention for name in [name for name in _prefixes(module) if name in blocks][-1:]]
    return [
        f"{block}.{name}"
        for block in dict.fromkeys(innermost)
        for name, child in modules[block].named_children()
        if _is_norm(child)
    ]


def hidden_states_position(module: nn.Module) -> int:
    """At which position ``module.forward`` takes ``hidden_states`` when it is passed without its name."""
    return list(_parameters(module)).index("hidden_states")


def _blocks(modules: dict[str, nn.Module]) -> set[str]:
    lists = {name: module for name, module in modules.items() if isinstance(module, nn.ModuleList)}
    return {f"{name}.{index}" for name, module in lists.items() for index in range(len(module))}


def _is_norm(module: nn.Module) -> bool:
    module = getattr(module, "original_module", module)  # where PEFT keeps it beside the copies that adapters train
    is_leaf = next(module.children(), None) is None
    return is_leaf and "norm" in type(module).__name__.lower() and next(module.parameters(), None) is not None


def _looks_like_attention(module: nn.Module) -> bool:
    names = set(_parameters(module))
    return "hidden_states" in names and bool(_CACHE & names) and any("mask" in name for name in names)


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
