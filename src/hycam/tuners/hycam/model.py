"""The tuner: puts the wrappers in, and adds the load-balancing loss to what the model returns."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from hycam.attention import find_attention_modules
from hycam.errors import HycamError
from hycam.tuners.base import Tuner
from hycam.tuners.hycam.balance import NO_LABELS, TrainingStats, add_balance_term, routing_statistics
from hycam.tuners.hycam.config import HyCAMConfig
from hycam.tuners.hycam.layer import NOT_MERGEABLE, HyCAMLayer
from hycam.tuners.hycam.recorder import RoutingRecorder


class HyCAMModel(Tuner):
    """Adapts a frozen backbone with HyCAM: every attention module is wrapped in a :class:`HyCAMLayer`.

    In training with ``labels`` the objective is the task loss plus ``balance_weight`` times the load-balancing loss
    (Eq. 10 and 14) over the tokens that are not padding.
    """

    prefix = "hycam_"
    tuner_layer_cls = HyCAMLayer
    config_class = HyCAMConfig

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        super()._pre_injection_hook(model, config, adapter_name)
        if not hasattr(self, "recorder"):
            self.recorder = RoutingRecorder()
            self.last_stats = TrainingStats()

    def _prepare_adapter_config(self, peft_config: HyCAMConfig, model_config: dict) -> HyCAMConfig:  # type: ignore[override]
        """Fills in ``target_modules`` where it is None, and refuses anything but attention modules."""
        found = find_attention_modules(self.model)
        names = [name for name, _ in self.model.named_modules()]
        if peft_config.target_modules is None:
            # Suffixes and not full names, because PEFT ignores `layers_to_transform` for full names. Where a suffix is
            # also the name of something else (a vision tower), it is lengthened until it is not.
            peft_config.target_modules = _shortest_suffixes(found, names)
            return peft_config
        in_full = [name for name in peft_config.target_modules if name in names]
        if peft_config.layers_to_transform is not None and not isinstance(peft_config.target_modules, str) and in_full:
            raise HycamError(
                f"layers_to_transform has no effect on a module that is named in full ({in_full[0]}): name the modules "
                "by their last part, or leave layers_to_transform out."
            )
        is_all_linear = str(peft_config.target_modules).lower() == "all-linear"
        inside = tuple(f"{name}.base_layer" for name in found)
        matched = [
            name
            for name in names
            if name and not name.startswith(inside) and (is_all_linear or check_target_module_exists(peft_config, name))
        ]
        wrong = [name for name in matched if name not in found]
        if wrong:
            raise HycamError(
                f"target_modules={peft_config.target_modules!r} matches {wrong[0]}, which is not an attention module. "
                "HyCAM adapts attention modules as a whole, not linear layers: leave target_modules at None, or name "
                f"one of {', '.join(sorted({name.rpartition('.')[2] for name in found}))}."
            )
        return peft_config

    def _create_and_replace(  # type: ignore[override]
        self,
        hycam_config: HyCAMConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if not isinstance(target, HyCAMLayer):
            hidden_size = self.model.config.get_text_config().hidden_size
            layer = HyCAMLayer(target, hidden_size, current_key, self.recorder)
            self._replace_module(parent, target_name, layer, target)
            target = layer
        target.update_layer(adapter_name, hycam_config)
        if adapter_name not in self.active_adapters:
            target.set_requires_grad(adapter_name, False)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version reads `child.weight`, which an attention module has not (or it is a module of that name).
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NOT_MERGEABLE)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled() and self._has_active_adapter()):
            return self.model(*args, **kwargs)
        self.recorder.open()
        try:
            outputs = self.model(*args, **kwargs)
        finally:
            records = self.recorder.close()
        config = cast(HyCAMConfig, self.peft_config[self.active_adapters[0]])
        term = torch.zeros(())
        balance: Tensor | None = None
        routing: dict[str, Tensor] = {}
        if records:
            balance, routing = routing_statistics(records, kwargs.get("attention_mask"), config.balance_scope)
            term = config.balance_weight * balance
        labels, shift_labels = kwargs.get("labels"), kwargs.get("shift_labels")
        outputs, task_loss = add_balance_term(outputs, term, labels, shift_labels, kwargs.get("num_items_in_batch"))
        if task_loss is None and records and config.balance_weight:
            self.recorder.warn_once(NO_LABELS)
        self.last_stats = TrainingStats(task_loss, None if balance is None else balance.detach(), routing)
        return outputs

    def _has_active_adapter(self) -> bool:
        if not self.active_adapters:
            return False
        return any(not layer.disable_adapters for layer in self.model.modules() if isinstance(layer, HyCAMLayer))


def _shortest_suffixes(wanted: list[str], names: list[str]) -> list[str]:
    """The fewest trailing parts of the wanted names that match no other name, ``a.b.c`` being matched by ``b.c``."""
    kept = set(wanted)
    others = [name for name in names if name not in kept]
    suffixes = []
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if not any(other == suffix or other.endswith(f".{suffix}") for other in others):
                break
        suffixes.append(suffix)
    return list(dict.fromkeys(suffixes))
