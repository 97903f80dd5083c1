"""Checks a saved adapter before any of it reaches a model.

The expected weights come from an adapter on the meta device, built from its configuration and the backbone's. So a file
that does not fit is refused before the backbone is read.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import PeftType
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hycam.adapt import empty_backbone
from hycam.errors import HycamError, first_line
from hycam.tuners.fit import Spec, check_fit

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"

# These fields decide which code is imported and whether the backbone's weights change, so they must agree with the
# recipe. PEFT fills in the other fields itself, and their defaults may change between versions.
_AS_THE_RECIPE_SAYS = ("peft_type", "task_type", "megatron_config", "megatron_core", "init_lora_weights")


def saved_config(folder: Path, recipe: PeftConfig) -> PeftConfig:
    """The configuration of the adapter in a folder, compared with that of the ``recipe`` beside it. Reads no weights.

    Raises:
        HycamError: the adapter is incomplete or pickled, its configuration is damaged or belongs to another method, or
            it disagrees with the recipe about what is imported or done to the backbone.
    """
    if not (folder / _WEIGHTS).is_file():
        if (folder / _PICKLED).exists():
            raise HycamError(
                f"{folder} has its weights in {_PICKLED}, which is a pickle: reading one can run any code, so it is "
                f"not read. Adapters are read from {_WEIGHTS}, as PEFT saves them."
            )
        raise HycamError(f"{folder} has no {_WEIGHTS}: the adapter is incomplete. Train again, or restore the file.")
    path = folder / _CONFIG
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        kind, wanted = written.get("peft_type") if isinstance(written, dict) else None, PeftType(recipe.peft_type).value
        if kind != wanted:
            raise HycamError(f"{folder} is an adapter of {kind}, but the recipe beside it trains {wanted}.")
        numbers = sum(math.prod(spec.shape) for spec in weights_of(folder).values())
        for name, value in written.items():
            if isinstance(value, int) and value > numbers:
                raise HycamError(
                    f"{path} is damaged: {name} is {value}, and the weights have {numbers:,} values in all."
                )
        found = type(recipe).from_pretrained(str(folder))
    except HycamError:
        raise
    except Exception as error:  # a wrong field can raise anything
        raise HycamError(f"{path} cannot be read as an adapter's configuration: {first_line(error)}.") from error
    for name in _AS_THE_RECIPE_SAYS:
        saved, given = getattr(found, name, None), getattr(recipe, name, None)
        if saved != given:
            raise HycamError(
                f"{path} has {name}={saved!r}, but the recipe beside it gives {given!r}. It is not the adapter that "
                "was trained here."
            )
    return found


def check_adapter(
    folder: Path, config: PeftConfig, backbone: PreTrainedConfig, trust_remote_code: bool = False
) -> list[str]:
    """Checks that a saved adapter has the weights that its ``config`` implies on this backbone, all of them finite.

    Returns:
        the names of the other tensors in the file: embeddings of the backbone.

    Raises:
        HycamError: what differs in names, shapes or types; the file is damaged; or a weight is not finite.
    """
    found = weights_of(folder)
    try:
        bare = empty_backbone(backbone, trust_remote_code)
        empty = get_peft_model(bare, _of_full_rank(config), low_cpu_mem_usage=True)
        own = _specs(get_peft_model_state_dict(empty, save_embedding_layers=False))
        if config.peft_type == PeftType.ADALORA:  # sets its ranks while it is loaded
            own = {name: found.get(name, spec) for name, spec in own.items()}
    except Exception as error:  # as in saved_config
        raise HycamError(f"{folder / _CONFIG} does not work on this backbone: {first_line(error)}.") from error
    check_fit(own, found, _embeddings(empty, found))
    with _opened(folder / _WEIGHTS) as weights:
        for name in weights.keys():  # noqa: SIM118  # not a dictionary
            if not torch.isfinite(weights.get_tensor(name)).all():
                raise HycamError(
                    f"{folder / _WEIGHTS}: {name} holds values that are not finite, so every answer would be NaN. The "
                    "training diverged; train again with a lower learning rate."
                )
    return sorted(found.keys() - own.keys())


def check_embeddings(folder: Path, names: list[str], base: PreTrainedModel) -> None:
    """Checks that the embeddings saved with an adapter, by the names of :func:`check_adapter`, are the backbone's.

    Raises:
        HycamError: they differ, so loading the adapter would change the backbone.
    """
    tables = [base.get_input_embeddings(), base.get_output_embeddings()]
    own = {
        f"{name}.{key}": value
        for name, module in base.named_modules()
        if any(module is table for table in tables)
        for key, value in module.state_dict().items()
    }
    with _opened(folder / _WEIGHTS) as weights:
        for name in names:
            place = name.removeprefix("base_model.model.")
            for wrapped in (".base_layer.", ".original_module."):
                place = place.replace(wrapped, ".")
            if place in own and not torch.equal(weights.get_tensor(name).to(own[place]), own[place]):
                raise HycamError(f"{folder / _WEIGHTS}: {name} would change the backbone's own {place}.")


def weights_of(folder: Path) -> dict[str, Spec]:
    """Names, shapes and types of the tensors of a saved adapter.

    Raises:
        HycamError: the file is missing or damaged.
    """
    found = {}
    with _opened(folder / _WEIGHTS) as weights:
        for name in weights.keys():  # noqa: SIM118
            found[name] = Spec.of(weights.get_tensor(name))
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file, memory-mapped; errors name it."""
    try:
        with safe_open(path, framework="pt") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        raise HycamError(
            f"{path} is truncated or damaged: it cannot be read as safetensors ({first_line(error)}). "
            "Restore a complete copy, or train again."
        ) from error


def _embeddings(empty: PeftModel, found: Mapping[str, Spec]) -> dict[str, Spec]:
    """Embeddings that may be in the file too: PEFT saves them where an adapter is on them."""
    if not any(".base_layer." in name or "embed" in name or "head" in name for name in found):
        return {}
    return _specs(get_peft_model_state_dict(empty, save_embedding_layers=True))


def _of_full_rank(config: PeftConfig) -> PeftConfig:
    """A copy of the configuration; AdaLoRA's without its pruned ranks, which need weights."""
    copied = copy.deepcopy(config)
    if copied.peft_type == PeftType.ADALORA:
        cast(Any, copied).rank_pattern = None
    return copied


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    return {name: Spec.of(value) for name, value in tensors.items()}
