"""Which modules an adapter is put on, by the names that PEFT matches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hycam.errors import HycamError

ALL_LINEAR = "all-linear"


def linear_layers(model: nn.Module) -> list[str]:
    """Names of a backbone's linear layers, in order, without the output layer and the insides of adapters."""
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, wrappers))
    return [
        name
        for name, module in model.named_modules()
        if module is not output and not name.startswith(inside) and isinstance(_unwrapped(module), (nn.Linear, Conv1D))
    ]


def _unwrapped(module: nn.Module) -> nn.Module:
    return BaseTunerLayer.get_base_layer(module) if isinstance(module, BaseTunerLayer) else module


def check_targets(config: PeftConfig, model: nn.Module, kind: str, there: list[str]) -> None:
    """Refuses targets that match nothing, before the backbone is changed; the error lists the candidates.

    PEFT's own error names only the given targets. PEFT also adapts a module that is named in full whatever
    ``layers_to_transform`` says, so the two together are refused.

    ``kind`` is what the method adapts, in the plural, and ``there`` the names of those modules.

    Raises:
        HycamError: no module of ``model`` has such a name in the layers to transform, or one is named in full.
    """
    targets: Any = getattr(config, "target_modules", None)
    if not targets or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        return
    names = [name for name, _ in model.named_modules() if name]
    layers = getattr(config, "layers_to_transform", None)
    in_full = [] if isinstance(targets, str) else [name for name in targets if name in names]
    if layers is not None and in_full:
        raise HycamError(
            f"layers_to_transform has no effect on a module that is named in full ({in_full[0]}): name the modules by "
            "their last part, or remove layers_to_transform."
        )
    if any(check_target_module_exists(config, name) for name in names):
        return
    shown = targets if isinstance(targets, str) else sorted(targets)
    within = "" if layers is None else f" in the layers {layers}"
    raise HycamError(
        f"target_modules={shown!r} matches nothing{within} in {type(model).__name__}. Its {kind} are "
        f"{', '.join(last_parts(there))}."
    )


def settle_targets(
    config: PeftConfig, model: nn.Module, kind: str, there: list[str], prefix: str, takes_all_linear: bool
) -> None:
    """Fills in ``target_modules`` where it is None, and refuses targets that are not of the method's kind.

    Args:
        config, model: the adapter's configuration, which is changed, and the backbone, perhaps with other adapters.
        kind, there: what the method adapts, in the singular, and the names of those modules.
        prefix: of the method; modules inside its own layers have it in their names, and are skipped.
        takes_all_linear: whether ``"all-linear"`` means None.

    Raises:
        HycamError: as :func:`check_targets`; or a target is not a module of that kind.
    """
    targets: Any = getattr(config, "target_modules", None)
    names = [name for name, _ in model.named_modules() if name]
    is_all_linear = isinstance(targets, str) and targets.lower() == ALL_LINEAR
    if targets is None or (is_all_linear and takes_all_linear):
        cast(Any, config).target_modules = shortest_suffixes(there, names)
        check_targets(config, model, f"{kind}s", there)
        return
    check_targets(config, model, f"{kind}s", there)
    own, inside = set(there), (".base_layer", f".{prefix}")
    for name in names:
        if name in own or any(part in name for part in inside):
            continue
        if is_all_linear or check_target_module_exists(config, name):
            raise HycamError(
                f"target_modules={targets!r} matches {name}, which is not one of the {kind}s. Leave "
                f"target_modules at None, or name some of {', '.join(last_parts(there))}."
            )


def last_parts(names: Iterable[str]) -> list[str]:
    """The last parts of module names, each once, in order: ``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def shortest_suffixes(wanted: list[str], names: list[str]) -> list[str]:
    """The fewest trailing parts of the wanted names that no other name ends with, such as ``b.c`` of ``a.b.c``.

    Suffixes and not full names, because PEFT ignores ``layers_to_transform`` for full names. They are compared as
    strings, since PEFT matches ``modules_to_save`` so: ``xb.c`` ends with ``b.c``.
    """
    kept = set(wanted)
    others = [name for name in names if name not in kept]
    suffixes = []
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if not any(other.endswith(suffix) for other in others):
                break
        suffixes.append(suffix)
    return list(dict.fromkeys(suffixes))
