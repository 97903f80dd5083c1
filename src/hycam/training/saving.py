"""Whatever ``save_pretrained`` would refuse after training, found before it."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from hycam.errors import HycamError

_MODES = ("do_sample", "num_beams", "penalty_alpha")  # other settings have a meaning in one of them alone


def mended(settings: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """Generation settings as they may be saved, and which were left out.

    Left out is what has no effect beside the others, such as a temperature where nothing is sampled: transformers loads
    it and refuses to save it. So they decode as before.
    """
    stated = settings.to_diff_dict()
    kept: dict[str, object] = {}
    for name in sorted(stated, key=lambda name: name not in _MODES):
        if _is_valid({**kept, name: stated[name]}):
            kept[name] = stated[name]
    return GenerationConfig(**kept), [name for name in stated if name not in kept]


def _is_valid(settings: dict[str, object]) -> bool:
    try:
        GenerationConfig(**settings).validate(strict=True)
    except ValueError:
        return False
    return True


def save_weights(model: PreTrainedModel | PeftModel, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """``save_pretrained`` of what was trained.

    Args:
        model: an adapter, or a whole model.
        folder: where.
        state: the weights, where the model does not hold them whole itself.
    """
    is_partitioned = any(hasattr(weight, "ds_id") for weight in model.parameters())
    # transformers would rename the weights of a model that ZeRO-3 has loaded, by patterns for other models.
    further: dict[str, Any] = (
        {"save_original_format": False} if is_partitioned and not isinstance(model, PeftModel) else {}
    )
    model.save_pretrained(str(folder), state_dict=state, **further)


def check_saves(name: str, one: PreTrainedModel | PreTrainedTokenizerBase) -> bool:
    """Saves a tokenizer, or the configuration of a model that need not have weights, for trial; True if that went well.

    Raises:
        HycamError: it cannot be saved.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            (one.config if isinstance(one, PreTrainedModel) else one).save_pretrained(folder)
            return True
    except Exception as error:  # tokenizers and configurations of their own code raise whatever comes first
        what, file = ("configuration", "config.json") if isinstance(one, PreTrainedModel) else ("tokenizer", "files")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise HycamError(
            f"The {what} of {name} can be loaded and not be saved, so that nothing trained would be kept: {reason}. "
            f"Correct its {file} in a copy of the backbone."
        ) from error


def check_shared(name: str, model: PreTrainedModel) -> None:
    """Refuses weights that are one tensor under several names without being declared as tied: they cannot be saved.

    Raises:
        HycamError: there are some.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for place, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names[id(tensor)].append(place)
    declared = set(model.all_tied_weights_keys)
    for same in names.values():
        if len(set(same) - declared) > 1:
            raise HycamError(
                f"{' and '.join(same)} of {name} are one tensor, which its code does not declare as tied, so that what "
                "is trained could not be saved. Add them to _tied_weights_keys in that code, or train an adapter."
            )
