"""A linear layer with parallel LoRA branches."""

from __future__ import annotations

from typing import cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from hycam.tuners.linear import StackedLayer
from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.weights import Weight


class MultiLoraLayer(StackedLayer):
    r"""A linear layer with n parallel low-rank branches, each scaled per output channel.

    .. math::
        y = W x + \frac{\alpha}{r} \sum_{i=1}^{n} s_i \odot (B_i A_i x)

    MultiLoRA (arXiv 2311.11501), with ``A_i`` ``[r, in]``, ``B_i`` ``[out, r]`` and ``s_i`` ``[out]``. The branches are
    one map of rank n r: ``[s_1 * B_1 ... s_n * B_n] [A_1; ...; A_n]``, so there are two products whatever n is.
    """

    multilora_scaling: nn.ModuleDict
    prefix = "multilora_"
    adapter_layer_names = ("multilora_A", "multilora_B", "multilora_scaling")
    other_param_names = ("configs",)
    starts_at_zero = "multilora_scaling"

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self._weight_before_merge: Tensor | None = None

    def add_weights(self, adapter: str, config: MultiLoraConfig) -> None:
        self.add_factors(adapter, config.num_branches, config.r)
        self.multilora_scaling[adapter] = Weight(torch.empty(config.num_branches, self.out_features))

    def delta(self, x: Tensor, adapter: str, config: MultiLoraConfig) -> Tensor:
        x = F.dropout(x, config.dropout, self.training)
        u = F.linear(x, self.adapter_weight("A", adapter).flatten(0, 1))  # [..., n*r]
        return F.linear(u, self._scaled_B(adapter, config))

    def _scaled_B(self, adapter: str, config: MultiLoraConfig) -> Tensor:
        """``alpha/r * [s_1 * B_1 ... s_n * B_n]``, ``[out, n*r]``."""
        scaled = (config.scale * self.adapter_weight("scaling", adapter)).unsqueeze(-1) * self.adapter_weight(
            "B", adapter
        )
        return scaled.transpose(0, 1).flatten(1)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds to the layer's weight, in the weight's own layout and at least float32."""
        config = self.configs[adapter]
        A, B = self.adapter_weight("A", adapter).flatten(0, 1), self._scaled_B(adapter, config)
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
                f"A MultiLoRA adapter cannot be merged into quantised weights ({weight.dtype}): load the backbone in "
                "float32 or bfloat16 and merge there."
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
