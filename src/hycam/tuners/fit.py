"""Checks that the weights of a file fit an adapter, before any of them is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hycam.errors import HycamError

_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SHOWN = 3  # of the names that differ


class Spec(NamedTuple):
    """The shape and the type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        return cls(tuple(tensor.shape), tensor.dtype)


def check_fit(own: Mapping[str, Spec], found: Mapping[str, Spec], optional: Mapping[str, Spec]) -> None:
    """Compares what an adapter has on this backbone with what a file holds.

    The types may differ, since a file may be saved in half precision, but must be floating-point: PyTorch would convert
    integers silently. The values are not checked.

    Args:
        own: the adapter's weights by name; all are needed.
        found: those of the file.
        optional: what else may be in the file, and then has to fit too.

    Raises:
        HycamError: names are missing or unknown, or shapes or types differ; the first few are listed.
    """
    missing = sorted(own.keys() - found.keys())
    if missing:
        raise HycamError(
            f"The adapter has no weights for {_listed(missing)} ({len(missing)} of {len(own)} are missing). It was "
            "made for another backbone or with another method."
        )
    foreign = sorted(found.keys() - own.keys() - optional.keys())
    if foreign:
        raise HycamError(
            f"The adapter has weights that this backbone has no place for: {_listed(foreign)} ({len(foreign)} in all). "
            "It was made for another backbone, or with another configuration; or it would change the backbone itself."
        )
    wanted = {**optional, **own}
    shapes = [
        f"{name} has the shape {list(spec.shape)} in the file and {list(wanted[name].shape)} here"
        for name, spec in sorted(found.items())
        if spec.shape != wanted[name].shape
    ]
    if shapes:
        raise HycamError(
            f"The adapter does not fit this backbone: {_listed(shapes, '; ')} ({len(shapes)} of {len(own)} differ). It "
            "was made for another hidden size or configuration."
        )
    types = [
        f"{name} of type {_type_name(spec.dtype)}" for name, spec in sorted(found.items()) if spec.dtype not in _TYPES
    ]
    if types:
        raise HycamError(
            f"The adapter has {_listed(types)} ({len(types)} in all), where one of "
            f"{', '.join(map(_type_name, _TYPES))} was expected. The file was not made by saving an adapter."
        )


def _listed(names: list[str], between: str = ", ") -> str:
    return between.join([*names[:_SHOWN], "..."] if len(names) > _SHOWN else names)


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
