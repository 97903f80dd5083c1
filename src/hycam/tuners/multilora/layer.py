"""A linear layer with parallel LoRA branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hycam.tuners.merging import MergeableLayer
from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.weights import Weight


class MultiLoraLayer(MergeableLayer):
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

    def add_weights(self, adapter: str, config: MultiLoraConfig) -> None:
        self.add_factors(adapter, config.num_branches, config.r)
        self.multilora_scaling[adapter] = Weight(torch.empty(config.num_branches, self.out_features))

    def factors(self, adapter: str, config: MultiLoraConfig) -> tuple[Tensor, Tensor]:
        """All A ``[n*r, in]`` and ``alpha/r * [s_1 * B_1 ... s_n * B_n]``, ``[out, n*r]``."""
        A, B, scaling = (self.adapter_weight(name, adapter) for name in ("A", "B", "scaling"))
        return A.flatten(0, 1), ((config.scale * scaling).unsqueeze(-1) * B).transpose(0, 1).flatten(1)

    def delta(self, x: Tensor, adapter: str, config: MultiLoraConfig) -> Tensor:
        return super().delta(F.dropout(x, config.dropout, self.training), adapter, config)
