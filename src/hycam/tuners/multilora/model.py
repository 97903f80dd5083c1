"""The tuner of MultiLoRA."""

from __future__ import annotations

from typing import Any

from hycam.tuners.linear import StackedTuner
from hycam.tuners.merging import check_every_layer, check_weights_apart
from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.multilora.layer import MultiLoraLayer


class MultiLoraModel(StackedTuner):
    """Adapts a frozen backbone with MultiLoRA: every targeted linear layer becomes a :class:`MultiLoraLayer`."""

    prefix = "multilora_"
    tuner_layer_cls = MultiLoraLayer
    config_class = MultiLoraConfig

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        check_weights_apart(self._layers(MultiLoraLayer))

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        check_every_layer(self._layers(MultiLoraLayer), adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self, merge: bool = True, progressbar: bool = False, safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:  # fmt: skip
        if merge:
            check_every_layer(self._layers(MultiLoraLayer), adapter_names, safe_merge)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
