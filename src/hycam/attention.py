"""Finds the attention modules of a backbone and what is in their blocks, by structure and not from a list.

An attention module lies in a block of the language model, outside its vision and audio towers. It holds linear maps of
its own, which read states of the backbone's width, and meets at least two of three criteria:

- its class or its name says so;
- it makes queries, keys and values, by the names of its projections, which checkpoints keep from version to version;
- its ``forward`` takes a mask.

Modules that mix tokens by a convolution or a recurrent state (state-space mixers), that read another sequence
(cross-attention), or that attend in both directions without a cache (encoders) do not count.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

from hycam.errors import HycamError

_ATTENTION = re.compile("att(n|en)", re.IGNORECASE)
_CROSS = re.compile("cross|encoder_attn", re.IGNORECASE)
# q_proj, project_q, Wq, q_lin, q_a_proj, query; those of all three in one map: qkv_proj, query_key_value, c_attn.
_QUERIES = re.compile("(^|_)w?q(kv)?(_|$)|query|c_attn", re.IGNORECASE)
_KEYS_VALUES = re.compile("(^|_)w?(q?kv|k|v)(_|$)|key|value|c_attn", re.IGNORECASE)
_EXPERTS = re.compile("expert", re.IGNORECASE)
_CACHE = re.compile("(?<!use_)cache|past", re.IGNORECASE)


def find_attention_modules(model: nn.Module) -> list[str]:
    """Names of the self-attention modules of a causal language model, in the order of the layers.

    Args:
        model: a ``transformers`` model with any head, possibly with HyCAM adapters attached already. No forward is run.

    Raises:
        HycamError: the model is an encoder-decoder, or its parts have widths of their own (BLT); or no attention
            module is found (the message names each kind of module it looked at and why it was skipped); or all of
            them add the residual stream before their output can be scaled (Bloom, BERT).
    """
    kind = type(model).__name__
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise HycamError(
            f"{kind} is an encoder-decoder. HyCAM adapts decoder-only language models (such as Llama, Qwen or GPT-2), "
            "with any head on them, and the language model inside a vision-language model."
        )
    width = None if config is None else getattr(config.get_text_config(), "hidden_size", None)
    if config is not None and width is None:
        raise HycamError(
            f"{kind} has no width of its own (hidden_size in its configuration), so HyCAM cannot adapt it."
        )
    modules = dict(model.named_modules())
    blocks = _blocks(modules)
    found: list[str] = []
    skipped: dict[str, str] = {}  # one of each class
    for name, module in _language_model(model, modules).items():
        own_name = name.removesuffix(".base_layer")
        if not any(prefix in blocks for prefix in _prefixes(own_name)) or not _projections(module):
            continue
        if any(own_name.startswith(f"{outer}.") for outer in found):
            continue
        reason = _why_not(own_name, module, width)
        if reason is None:
            _check_residual(kind, own_name, modules, blocks)
            found.append(own_name)
        else:
            skipped.setdefault(type(module).__name__, f"{own_name} ({type(module).__name__}) {reason}")
    if not found:
        looked_at = "; ".join(skipped.values()) or "nothing, since no list of blocks holds linear maps"
        raise HycamError(
            f"{kind} has no attention that HyCAM could modulate. Looked at: {looked_at}. HyCAM adapts causal language "
            "models with attention."
        )
    return found


def find_block_norms(model: nn.Module, attention: list[str]) -> list[str]:
    """Names of the norms that have weights in the blocks of these attention modules, in the order of the blocks.

    They are those that a block holds itself: neither the norms inside its attention or feed-forward module nor the
    final norm of the backbone.
    """
    modules = dict(model.named_modules())
    return [
        f"{block}.{name}"
        for block in _blocks_of(attention, modules)
        for name, child in modules[block].named_children()
        if _is_norm(child)
    ]


def find_feed_forward(model: nn.Module, attention: list[str], linear: list[str]) -> list[str]:
    """Names of the linear layers of the feed-forward networks in the blocks of these attention modules, in order.

    They are what a block has outside its attention, of any kind, and its state-space mixer.

    Args:
        linear: the names of the model's linear layers.

    Raises:
        HycamError: one of the blocks has a mixture of experts, whose weights are no linear layers.
    """
    modules = dict(model.named_modules())
    found = []
    for block in _blocks_of(attention, modules):
        within = {name: module for name, module in modules.items() if name.startswith(f"{block}.")}
        mixers = tuple(f"{name}." for name, module in within.items() if _mixes_tokens(name, module))
        for name, module in within.items():
            if name.startswith(mixers):
                continue
            if _EXPERTS.search(_called(name, module)):
                raise HycamError(
                    f"{type(model).__name__} has a mixture of experts in its blocks ({name}, {type(module).__name__}), "
                    "and low-rank updates (ffn_r) are for feed-forward networks of linear layers. Leave ffn_r at None."
                )
            if name in linear:
                found.append(name)
    return found


def _mixes_tokens(name: str, module: nn.Module) -> bool:
    called = _called(name, module)
    is_convolution = any(isinstance(child, nn.Conv1d) for child in module.children())
    return bool(_ATTENTION.search(called) or _CROSS.search(called)) or is_convolution


def hidden_states_argument(module: nn.Module) -> tuple[str, int]:
    """Name and position of the hidden states in ``module.forward``: the argument of that name, or the first."""
    names = _parameters(module)
    name = "hidden_states" if "hidden_states" in names or not names else names[0]
    return name, names.index(name) if names else 0


def _language_model(model: nn.Module, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The language model's modules by their full names; all modules where ``transformers`` knows no such part."""
    get_decoder: Any = getattr(model, "get_decoder", lambda: model)
    part = get_decoder() or model  # None for some models in transformers 4
    inside = set(part.modules())
    if not any(isinstance(module, nn.ModuleList) for module in inside):  # the "decoder" may be the head
        return modules
    return {name: module for name, module in modules.items() if module in inside}


def _why_not(name: str, module: nn.Module, width: int | None) -> str | None:
    """Why a module is not the self-attention of a block; None where it is."""
    called, parameters = _called(name, module), _parameters(module)
    if _CROSS.search(called) or getattr(module, "is_cross_attention", False):
        return "reads another sequence (cross-attention)"
    if any(isinstance(child, nn.Conv1d) for child in module.children()):
        return "mixes the tokens by a convolution or a recurrent state and keeps no key-value cache"
    missing = []
    if not _ATTENTION.search(called):
        missing.append("is not called attention")
    projections = _projections(module)
    if not (any(map(_QUERIES.search, projections)) and any(map(_KEYS_VALUES.search, projections))):
        missing.append(f"makes no queries, keys and values ({', '.join(projections)})")
    if not any("mask" in parameter for parameter in parameters):
        missing.append("takes no mask")
    if len(missing) > 1:
        return " and ".join(missing)
    if getattr(module, "is_causal", None) is False and not any(map(_CACHE.search, parameters)):
        return "attends in both directions and keeps no cache, as encoders do"
    reads = {_width_read(part) for part in module.modules() if _is_linear(part)}
    if width is not None and reads and width not in reads:
        return f"reads states of width {max(reads)}, and the backbone's are {width} wide"
    return None


def _check_residual(kind: str, name: str, modules: dict[str, nn.Module], blocks: set[str]) -> None:
    """Refuses attention to whose output the residual stream is added in the module itself or in a wrapper around it.

    A module that adds it takes it as ``residual``; a wrapper that adds it has a map of its own, the output projection.
    """
    prefixes = _prefixes(name)
    block = max((prefix for prefix in prefixes if prefix in blocks), key=len)
    wrappers = [
        prefix
        for prefix in prefixes
        if len(prefix) > len(block)
        and not isinstance(modules[prefix], nn.ModuleList)
        and _ATTENTION.search(_called(prefix, modules[prefix]))
    ]
    for outer in [name, *wrappers]:
        for part, module in modules[outer].named_modules():
            where = f"{outer}.{part}".rstrip(".")
            if _is_linear(module) and not where.startswith(f"{name}."):
                where = where.rpartition(".")[0]
            elif "residual" not in _parameters(module):
                continue
            raise HycamError(
                f"{kind} cannot be adapted: {where} ({type(modules[where]).__name__}) adds the residual stream inside "
                "the attention module, so the attention output cannot be scaled apart from it."
            )


def _called(name: str, module: nn.Module) -> str:
    return f"{name.rpartition('.')[2]} {type(module).__name__}"


def _blocks(modules: dict[str, nn.Module]) -> set[str]:
    lists = {name: module for name, module in modules.items() if isinstance(module, nn.ModuleList)}
    return {f"{name}.{index}" for name, module in lists.items() for index in range(len(module))}


def _blocks_of(attention: list[str], modules: dict[str, nn.Module]) -> list[str]:
    """The innermost blocks of these attention modules, each once, in order."""
    blocks = _blocks(modules)
    innermost = [name for module in attention for name in [name for name in _prefixes(module) if name in blocks][-1:]]
    return list(dict.fromkeys(innermost))


def _is_norm(module: nn.Module) -> bool:
    module = getattr(module, "original_module", module)  # PEFT keeps it beside the copies that adapters train
    is_leaf = next(module.children(), None) is None
    return is_leaf and "norm" in type(module).__name__.lower() and next(module.parameters(), None) is not None


def _projections(module: nn.Module) -> list[str]:
    """The names of the linear maps that a module holds itself, plain ones or wrapped."""
    return [
        name
        for name, child in module.named_children()
        if _is_linear(child) or ((_QUERIES.search(name) or _KEYS_VALUES.search(name)) and not _is_norm(child))
    ]


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or hasattr(module, "nx")  # Linear, packed ones, LoRA's; GPT-2's Conv1D


def _width_read(linear: Any) -> int:
    return linear.in_features if hasattr(linear, "in_features") else linear.nx


def _parameters(module: nn.Module) -> list[str]:
    """The names of the arguments of ``module.forward``, without ``*args`` and ``**kwargs``."""
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, one in inspect.signature(module.forward).parameters.items() if one.kind not in any_number]


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
