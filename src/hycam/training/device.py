"""Where and in which type to train. Always explicit: the libraries' own defaults assume a GPU."""

from __future__ import annotations

import torch

from hycam.errors import HycamError


def torch_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device.

    Raises:
        HycamError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise HycamError("training.device is cuda, but PyTorch sees no GPU here. Use cpu or auto.")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def torch_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto``, ``float32`` or ``bfloat16`` as the type of the frozen backbone."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
