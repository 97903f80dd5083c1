"""What the modules that a HyCAM adapter puts into a backbone have in common."""

from __future__ import annotations

from hycam.tuners.base import AdapterLayer

MODULATION = (
    "hycam_shared",
    "hycam_shared_A", "hycam_shared_N", "hycam_shared_B",
    "hycam_shared_A_bias", "hycam_shared_N_bias", "hycam_shared_B_bias",
    "hycam_A", "hycam_N", "hycam_B",
    "hycam_A_bias", "hycam_N_bias", "hycam_B_bias",
    "hycam_specialized",
    "hycam_router",
)  # fmt: skip
FEED_FORWARD = ("hycam_ffn_A", "hycam_ffn_B")


class HyCAMPart(AdapterLayer):
    """An attention module whose output is modulated, or a feed-forward layer with a low-rank map beside it."""

    adapter_layer_names: tuple[str, ...] = (*MODULATION, *FEED_FORWARD)
    linear_names: tuple[str, ...] = ("hycam_shared", "hycam_router")
    not_mergeable = (
        "A HyCAM adapter cannot be merged: its modulation depends on the input, so it cannot be folded into the "
        "backbone's weights. Use the adapter as it is, or `unload()` to get the backbone back. Of an adapter with "
        "`ffn_r`, `merge_ffn()` merges the feed-forward part alone."
    )
