"""The tuner of MultiLoRA."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from hycam.tuners.linear import StackedTuner
from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.multilora.layer import MultiLoraLayer


class MultiLoraModel(StackedTuner):
    """Adapts a frozen backbone with MultiLoRA: every targeted linear layer becomes a :class:`MultiLoraLayer`."""

    prefix = "multilora_"
    tuner_layer_cls = MultiLoraLayer
    config_class = MultiLoraConfig

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        weights = [cast(nn.Linear, layer.get_base_layer()).weight for layer in self._adapter_layers()]
        if len({id(weight) for weight in weights}) < len(weights):
            raise ValueError(
                "A MultiLoRA adapter cannot be merged here: two of the layers share one weight, which would get both "
                "updates. Use the adapter as it is."
            )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self._check_every_layer(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self, merge: bool = True, progressbar: bool = False, safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:  # fmt: skip
        if merge:
            self._check_every_layer(adapter_names, safe_merge)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _check_every_layer(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """Finds what a layer refuses before the first one is changed."""
        for layer in self._adapter_layers():
            names = layer.active_adapters if adapter_names is None else adapter_names
            layer.merged_weight([name for name in names if safe_merge and name in layer.configs], safe_merge)
