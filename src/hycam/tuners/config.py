"""The settings that all methods of this project share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peft.config import PeftConfig

from hycam.tuners.targets import ALL_LINEAR


@dataclass
class AdapterConfig(PeftConfig):
    """Rank, scale and targets of an adapter, checked.

    Args:
        r: rank of each low-rank map.
        alpha: None for the factor 1, or a number: the low-rank maps' output is multiplied by ``alpha / r``.
        target_modules: modules to adapt, by the ends of their names or a pattern; None finds them.
        exclude_modules: modules not to adapt, as in PEFT.
        layers_to_transform: indices of the layers to adapt; all by default.
        layers_pattern: name of the list of layers, where PEFT does not know it.
        modules_to_save: further modules to train and save with the adapter.
        init_weights: True starts as the backbone itself. False draws everything at random, which only tests need.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    r: int = 64
    alpha: float | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            value: Any = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))
        self.check_positive("r")
        self.check_alpha("alpha")
        is_pattern = isinstance(self.target_modules, str) and self.target_modules.lower() != ALL_LINEAR
        if is_pattern and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform has no effect beside a pattern (target_modules={self.target_modules!r}): "
                "write the layers into the pattern, or name the modules in a list."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern has no effect without layers_to_transform.")

    def check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, not {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}.")

    def check_alpha(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, or None for the factor 1, not {value!r}.")

    @property
    def scale(self) -> float:
        """The factor of the low-rank maps' output."""
        return factor(self.alpha, self.r)


def factor(alpha: float | None, r: int) -> float:
    """What a low-rank map's output is multiplied by: ``alpha / r``, or 1 without an ``alpha``."""
    return 1.0 if alpha is None else alpha / r
