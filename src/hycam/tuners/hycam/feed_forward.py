"""The low-rank update of a feed-forward layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hycam.tuners.hycam.config import HyCAMConfig
from hycam.tuners.hycam.part import FEED_FORWARD, HyCAMPart
from hycam.tuners.merging import MergeableLayer


class FeedForwardLayer(MergeableLayer, HyCAMPart):
    r"""A linear layer of a feed-forward network with LoRA (arXiv 2106.09685) beside it.

    .. math::
        y = W x + \frac{\alpha_\text{ffn}}{r_\text{ffn}} B A x

    with ``A`` ``[ffn_r, in]`` and ``B`` ``[out, ffn_r]``. While it is merged, the backbone's weight is not its own, so
    nothing may be saved.
    """

    prefix = "hycam_ffn_"
    adapter_layer_names = FEED_FORWARD
    linear_names = ()
    other_param_names = ("configs",)
    starts_at_zero = "hycam_ffn_B"

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.register_state_dict_pre_hook(_refuse_while_merged)

    def add_weights(self, adapter: str, config: HyCAMConfig) -> None:
        assert config.ffn_r is not None
        self.add_factors(adapter, None, config.ffn_r)

    def factors(self, adapter: str, config: HyCAMConfig) -> tuple[Tensor, Tensor]:
        A, B = self.adapter_weight("A", adapter), self.adapter_weight("B", adapter)
        return A, B if config.ffn_scale == 1 else config.ffn_scale * B


def _refuse_while_merged(layer: FeedForwardLayer, *_: Any) -> None:
    if layer.merged:
        raise ValueError(
            "The feed-forward part of the adapter is merged into the backbone's weights, so neither can be saved. Call "
            "`unmerge_ffn()` first."
        )
