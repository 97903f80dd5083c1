"""Low-rank maps beside a linear layer that can be merged into its weight, since they do not depend on the input."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from hycam.tuners.linear import StackedLayer


class MergeableLayer(StackedLayer):
    """A linear layer beside which the adapter is one product, ``y = W x + B A x``.

    Args:
        base_layer: an ``nn.Linear``, or GPT-2's ``Conv1D``, which holds its weight transposed.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self._weight_before_merge: Tensor | None = None

    def factors(self, adapter: str, config: Any) -> tuple[Tensor, Tensor]:
        """``A`` ``[rank, in]`` and ``B`` ``[out, rank]``, the adapter's scale in one of them."""
        raise NotImplementedError

    def delta(self, x: Tensor, adapter: str, config: Any) -> Tensor:
        A, B = self.factors(adapter, config)
        return F.linear(F.linear(x, A), B)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds to the layer's weight, in the weight's own layout and at least float32."""
        A, B = self.factors(adapter, self.configs[adapter])
        wide = torch.promote_types(A.dtype, torch.float32)
        product = B.to(wide) @ A.to(wide)
        return product.T if isinstance(self.get_base_layer(), Conv1D) else product

    @torch.no_grad()
    def merged_weight(self, names: list[str], safe_merge: bool) -> Tensor:
        """The layer's weight with these adapters added, in its own type; nothing is changed.

        Raises:
            ValueError: the weight is quantised, or (``safe_merge``) the result would not be finite.
        """
        weight = cast(nn.Linear, self.get_base_layer()).weight
        if not weight.is_floating_point():
            raise ValueError(
                f"An adapter cannot be merged into quantised weights ({weight.dtype}): load the backbone in float32 or "
                "bfloat16 and merge there."
            )
        merged = weight.detach()
        for name in names:
            merged = merged + self.get_delta_weight(name).to(weight.device)
        merged = merged.to(weight.dtype)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(
                f"Merging {', '.join(names)} would give weights that are not finite: the adapter is broken."
            )
        return merged

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the adapter to the layer's weight; ``unmerge`` puts the very same weight back.

        Raises:
            ValueError: as :meth:`merged_weight`.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.configs]
        if not names:
            return
        merged = self.merged_weight(names, safe_merge)
        weight = cast(nn.Linear, self.get_base_layer()).weight
        if self._weight_before_merge is None:
            self._weight_before_merge = weight.data
        weight.data = merged
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        if self._weight_before_merge is not None:
            weight = cast(nn.Linear, self.get_base_layer()).weight
            weight.data = self._weight_before_merge.to(weight)  # the layer may have been moved since
            self._weight_before_merge = None
        self.merged_adapters.clear()

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        return super().forward(x, *args, **kwargs)


def check_weights_apart(layers: Collection[MergeableLayer]) -> None:
    """Refuses to merge where two of the layers share one weight, which would get both updates."""
    weights = {id(cast(nn.Linear, layer.get_base_layer()).weight) for layer in layers}
    if len(weights) < len(layers):
        raise ValueError(
            "An adapter cannot be merged here: two of the layers share one weight, which would get both updates. Use "
            "the adapter as it is."
        )


def check_every_layer(layers: Collection[MergeableLayer], adapter_names: list[str] | None, safe_merge: bool) -> None:
    """Finds what a layer refuses before the first one is changed."""
    for layer in layers:
        names = layer.active_adapters if adapter_names is None else adapter_names
        layer.merged_weight([name for name in names if safe_merge and name in layer.configs], safe_merge)
