"""A backbone by name: a short name, a local folder or a hub id -> configuration, tokenizer and model.

Weights are read from safetensors only. Code that comes with a model runs only where the caller says that it may
(``trust_remote_code`` of a recipe).
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from hycam.embedded import LLAMA_3, SMOLLM2_135M, EmbeddedBackbone, EmbeddedTokenizer
from hycam.errors import HycamError, first_line, unknown
from hycam.quantization import (
    Quantization,
    check_quantization,
    keep_weights,
    quantization_config,
    quantized_before,
    quiet_bitsandbytes,
)

SHORT_NAMES: dict[str, EmbeddedBackbone] = {SMOLLM2_135M.name: SMOLLM2_135M}
"""The backbones that come from the package registry alone."""

TOKENIZERS: dict[str, EmbeddedTokenizer] = {LLAMA_3.name: LLAMA_3}
"""The tokenizers that come from there without a backbone: for counting tokens and for showing rows."""


def config(name_or_path: str | os.PathLike[str], trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration alone, with arguments as in ``load``: nothing is fetched for a short name.

    Raises:
        HycamError: there is no such backbone, it needs code that may not run, or the hub cannot be reached.
    """
    name = os.fspath(name_or_path)
    if name in SHORT_NAMES:
        return copy.deepcopy(SHORT_NAMES[name].config)
    source = _source(name)
    with _explained(name):
        if not trust_remote_code:
            _check_kernels(name, PreTrainedConfig.get_config_dict(source)[0])
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)


def generation_settings(name_or_path: str | os.PathLike[str]) -> GenerationConfig | None:
    """The backbone's own generation settings (``generation_config.json``); None where it has no such file.

    Raises:
        HycamError: they contradict each other, so that the backbone cannot be loaded.
    """
    name = os.fspath(name_or_path)
    if name in SHORT_NAMES:
        return None
    try:
        return GenerationConfig.from_pretrained(_source(name))
    except OSError:
        return None
    except (ValueError, TypeError) as error:
        raise HycamError(
            f"The generation_config.json of {name} does not work: {first_line(error)}. "
            "Correct it in a copy of the backbone, or delete the file there."
        ) from error


def load_tokenizer(name_or_path: str | os.PathLike[str], trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer, with arguments as in ``load``; ``name_or_path`` may also be a key of ``TOKENIZERS``.

    One without a padding token pads with its end token, so masks must go by position.

    Raises:
        HycamError: there is no such backbone, it has no tokenizer or no end token, it needs code that may not run, or
            the hub cannot be reached.
    """
    name = os.fspath(name_or_path)
    with _bars_on_a_terminal_only():
        source = str(TOKENIZERS[name].folder()) if name in TOKENIZERS else _source(name, [*SHORT_NAMES, *TOKENIZERS])
        with _explained(name):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made without a vocabulary
        raise HycamError(f"{name} holds no tokenizer (tokenizer.json). Save one there with save_pretrained.")
    if tokenizer.eos_token_id is None:
        raise HycamError(f"The tokenizer of {name} has no end token (eos_token), so no answer would ever end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load(
    name_or_path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """The causal language model, in evaluation mode.

    Args:
        name_or_path: a key of ``SHORT_NAMES``, a folder written by ``save_pretrained``, or a hub id ``owner/name``.
        dtype: of the weights.
        device: where they are put.
        trust_remote_code: whether code that comes with the model may run. If transformers has its own code for the
            model's type, that is always used.
        quantization: hold the weights of the linear layers in ``"8bit"`` or ``"4bit"`` (see
            :mod:`hycam.quantization`); they are never all held in ``dtype``.

    Raises:
        HycamError: there is no such backbone, its weights are pickled, it is incomplete, it is not a causal
            language model, it needs code that may not run, or the hub cannot be reached; or it cannot be quantised on
            this device, or already is.
    """
    name, device = os.fspath(name_or_path), torch.device(device)
    if quantization is not None:
        check_quantization(quantization, device)
    own_config = config(name, trust_remote_code)
    before = quantized_before(own_config)
    further: dict[str, Any] = {}
    if before is not None and quantization is not None:
        raise HycamError(
            f"{name} is quantised already ({before}), and its weights cannot be quantised again. Leave quantization at "
            "null: it is loaded as it is."
        )
    if before is not None or quantization is not None:
        quiet_bitsandbytes()
        further["device_map"] = {"": device}  # they are quantised there, and cannot be moved afterwards
    if quantization is not None:
        further["quantization_config"] = quantization_config(quantization, dtype)
    model = _read_weights(name, config=own_config, dtype=dtype, trust_remote_code=trust_remote_code, **further)
    if not further:
        return model.to(device)
    keep_weights(model)
    _check_computes(model, name)
    return model


def _read_weights(name: str, **settings: Any) -> Any:
    """The model with all of its weights, from safetensors; ``settings`` are for ``from_pretrained``."""
    with _bars_on_a_terminal_only():
        source = _source(name)
        if Path(source).is_dir():
            check_weights(Path(source))
        with _explained(name):
            # The model class would load an adapter it finds here, and the backbone that the adapter names.
            if find_adapter_config_file(source) is not None:
                raise HycamError(_IS_ADAPTER.format(name))
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, **settings
            )
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise HycamError(
            f"{name} is not a complete causal language model: its weights lack {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which would keep random values."
        )
    return model


@torch.no_grad()
def _check_computes(model: PreTrainedModel, name: str) -> None:
    """Runs a quantised backbone on three tokens, since some kernels reject some architectures' inputs."""
    try:
        model(input_ids=torch.tensor([[0, 1, 2]], device=model.device), use_cache=False)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise HycamError(
            f"{name} cannot run as it is quantised ({model.config.model_type} on {model.device.type}): "
            f"{first_line(error)}. Use the other quantization, or none."
        ) from error


def _source(name: str, known: Iterable[str] = SHORT_NAMES) -> str:
    """What ``from_pretrained`` takes for ``name``: a folder that has a model in it, or a hub id.

    ``known`` are the short names among which a misspelt one is looked up.
    """
    if name in SHORT_NAMES:
        return str(SHORT_NAMES[name].folder())
    if name in TOKENIZERS:
        raise HycamError(
            f"Of {name} only the tokenizer comes from the package registry, not the model. Name a folder that holds "
            "the model, or its hub id (owner/name)."
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if folder.exists():
        raise HycamError(f"{name} is a file. A backbone is the folder that save_pretrained wrote.")
    if name.count("/") == 1 and name[0] not in "./~":
        return name
    if "/" in name:
        raise HycamError(f"There is no folder {name}. A backbone is a folder, a hub id (owner/name) or a short name.")
    raise HycamError(f"{unknown('backbone', name, known)} A folder or a hub id (owner/name) is a backbone too.")


_IS_ADAPTER = "{} holds an adapter, not a backbone. Name the backbone that it was trained on."


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise HycamError(_IS_ADAPTER.format(folder))
    if not (folder / "config.json").exists():
        raise HycamError(
            f"{folder} is not a backbone: it has no config.json. Name a folder that save_pretrained wrote."
        )


def check_weights(folder: Path) -> None:
    """Refuses pickled weights in a folder; those on the hub are refused by ``use_safetensors``."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise HycamError(
            f"{folder} has its weights in {pickled[0]}, which is a pickle: reading one can run any code, so it is not "
            "read. Save the model in safetensors (save_pretrained does), or get a copy that was saved so."
        )


_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def _check_kernels(name: str, settings: Mapping[str, Any]) -> None:
    """Refuses a configuration that names compiled code on the hub, as ``attn_implementation: owner/kernels``."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            _check_kernels(name, value)
        if key.endswith("_implementation"):
            for one in value.values() if isinstance(value, Mapping) else [value]:
                if isinstance(one, str) and "/" in one:
                    raise HycamError(f"The configuration of {name} takes its {key} from {one}. {_TRUST}")


_TRUST = (
    "That is code which would be fetched and run. Read it, and if you trust it, set trust_remote_code: true in "
    "the recipe."
)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns any error that transformers raises for an unreadable backbone into one message."""
    try:
        yield
    except HycamError:
        raise
    except Exception as error:  # damaged files raise anything
        if "trust_remote_code" in str(error):  # transformers asks for an argument; a recipe has a field
            raise HycamError(
                f"{name} cannot be read: it needs code of its own (auto_map in its configuration). {_TRUST}"
            ) from error
        if Path(name).expanduser().is_dir():
            advice = "Needed: a causal language model as save_pretrained writes it, with its weights in safetensors."
        else:
            advice = (
                "Check the name and the network; HF_HUB_OFFLINE=1 uses what was fetched before. "
                f"A local folder needs no network, and {', '.join(SHORT_NAMES)} only the package registry."
            )
        raise HycamError(f"The backbone {name} cannot be read: {first_line(error)}. {advice}") from error


@contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    hidden = transformers_logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if hidden:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            transformers_logging.enable_progress_bar()
