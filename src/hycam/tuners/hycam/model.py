"""The tuner: wraps the attention modules, and adds the load-balancing loss to the model's loss."""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from hycam.attention import find_attention_modules, find_block_norms, find_feed_forward
from hycam.errors import HycamError
from hycam.tuners.base import Tuner
from hycam.tuners.hycam.balance import (
    RoutingRecorder,
    TrainingStats,
    add_balance_term,
    routing_statistics,
    scored_labels,
)
from hycam.tuners.hycam.config import HyCAMConfig
from hycam.tuners.hycam.feed_forward import FeedForwardLayer
from hycam.tuners.hycam.layer import HyCAMLayer
from hycam.tuners.hycam.norms import TrainedNorm
from hycam.tuners.hycam.part import HyCAMPart
from hycam.tuners.merging import check_every_layer, check_weights_apart
from hycam.tuners.targets import linear_layers, settle_targets, shortest_suffixes

# The families of the released code. Their blocks are sequential and normalise first, with the norm of this name, so
# what goes into it is what the block adds to the attention output.
RESIDUAL_STREAM = ("llama", "mistral", "qwen2")
INPUT_NORM = "input_layernorm"
HALVES = (torch.float16, torch.bfloat16)


class HyCAMModel(Tuner):
    """Adapts a frozen backbone with HyCAM: every attention module is wrapped in a :class:`HyCAMLayer`.

    In training with ``labels`` the objective is the task loss plus ``balance_weight`` times the load-balancing loss
    (Eq. 10 and 14) over the tokens that are not padding.
    """

    prefix = "hycam_"
    tuner_layer_cls = HyCAMPart
    config_class = HyCAMConfig

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        super()._pre_injection_hook(model, config, adapter_name)
        if not hasattr(self, "recorder"):
            self.recorder = RoutingRecorder()
            self.last_stats = TrainingStats()

    def _prepare_adapter_config(self, peft_config: HyCAMConfig, model_config: dict) -> HyCAMConfig:  # type: ignore[override]
        """Fills in ``target_modules`` where it is None and the norms to train; refuses what cannot be adapted."""
        kind = model_config.get("model_type")
        if peft_config.modulation_target == "residual_stream" and kind not in RESIDUAL_STREAM:
            raise HycamError(
                f'modulation_target="residual_stream" is for blocks like those of {", ".join(RESIDUAL_STREAM)}, the '
                f'families of the released code, and not for {kind}. Use modulation_target="attention_output".'
            )
        found = find_attention_modules(self.model)
        settle_targets(peft_config, self.model, "attention module", found, self.prefix, takes_all_linear=False)
        adapted = [name for name in found if check_target_module_exists(peft_config, name)]
        if peft_config.train_norms:
            norms = find_block_norms(self.model, adapted)
            if adapted and not norms:
                raise HycamError(
                    f"train_norms=True has nothing to train: the blocks of {type(self.model).__name__} hold no norm "
                    "with weights. Leave train_norms at False."
                )
            given, names = peft_config.modules_to_save or [], [name for name, _ in self.model.named_modules()]
            peft_config.modules_to_save = list(dict.fromkeys([*given, *shortest_suffixes(norms, names)]))
        self.feed_forward = self._feed_forward(peft_config, adapted) if peft_config.ffn_r else []
        return peft_config

    def _feed_forward(self, config: HyCAMConfig, attention: list[str]) -> list[str]:
        """The names of the feed-forward layers that an adapter has low-rank updates on."""
        found = find_feed_forward(self.model, attention, linear_layers(self.model))
        targets = copy(config)  # exclude_modules and modules_to_save act on them as on the attention modules
        targets.target_modules, targets.layers_to_transform = found, None
        kept = [name for name in found if check_target_module_exists(targets, name)]
        if attention and not kept:
            raise HycamError(
                f"ffn_r has nothing to adapt: no linear layer of a feed-forward network is left in the blocks of "
                f"{type(self.model).__name__}. Leave ffn_r at None."
            )
        return kept

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:  # type: ignore[override]
        return key in self.feed_forward or super()._check_target_module_exists(peft_config, key)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # PEFT copies the norms that it trains, and a copy must not carry the hook that keeps the residual.
        self._unwatch_residuals()
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            self._watch_residuals()
        for wrapper in self._norms_trained_by(adapter_name):
            norm = wrapper.modules_to_save[adapter_name]
            wrapper.modules_to_save[adapter_name] = TrainedNorm(norm, wrapper.original_module)

    def _norms_trained_by(self, adapter_name: str) -> list[ModulesToSaveWrapper]:
        """The blocks' norms of which an adapter with ``train_norms`` has copies."""
        if not cast(HyCAMConfig, self.peft_config[adapter_name]).train_norms:
            return []
        names = find_block_norms(self.model, find_attention_modules(self.model))
        norms = [self.model.get_submodule(name) for name in names]
        return [
            norm for norm in norms if isinstance(norm, ModulesToSaveWrapper) and adapter_name in norm.modules_to_save
        ]

    def _watch_residuals(self) -> None:
        for name, layer in self.model.named_modules():
            if isinstance(layer, HyCAMLayer) and layer.needs_residual:
                layer.watch_residual(self.model.get_submodule(f"{name.rpartition('.')[0]}.{INPUT_NORM}"))

    def _unwatch_residuals(self) -> None:
        for layer in self._layers(HyCAMLayer):
            layer.unwatch_residual()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            return
        for wrapper in self._norms_trained_by(adapter_name):
            norm = wrapper.modules_to_save[adapter_name]
            for name, weight in list(norm.named_parameters()):
                if weight.dtype in HALVES:
                    setattr(norm, name, nn.Parameter(weight.detach().float(), requires_grad=weight.requires_grad))

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._unwatch_residuals()
        self._watch_residuals()

    def unload(self) -> nn.Module:
        self._unwatch_residuals()
        return super().unload()

    def merge_ffn(self) -> None:
        """Adds the active adapter's low-rank updates to the feed-forward weights, so that they cost nothing.

        The weights as they were are kept beside them for :meth:`unmerge_ffn`. Until then, neither adapter nor backbone
        can be saved; without the adapter, and after ``unload``, the backbone is what it was to the last bit.

        Raises:
            HycamError: the active adapter has no feed-forward part.
            ValueError: the weights are quantised, two layers share one, or the adapter is not finite.
        """
        layers = [
            layer
            for layer in self._layers(FeedForwardLayer)
            if not layer.configs.keys().isdisjoint(self.active_adapters)
        ]
        if not layers:
            raise HycamError("The active adapter has no feed-forward part (ffn_r) that could be merged.")
        check_weights_apart(layers)
        check_every_layer(layers, None, safe_merge=True)
        for layer in layers:
            layer.merge()

    def unmerge_ffn(self) -> None:
        """Undoes :meth:`merge_ffn` to the last bit."""
        for layer in self._layers(FeedForwardLayer):
            layer.unmerge()

    def _wrap(self, module: nn.Module, name: str) -> HyCAMPart:
        if name in self.feed_forward:
            return FeedForwardLayer(module)
        sizes = self.model.config.get_text_config()
        return HyCAMLayer(module, sizes.hidden_size, getattr(sizes, "initializer_range", 0.02), name, self.recorder)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version reads `child.weight`, which an attention module does not have, or has as a submodule.
        setattr(parent, child_name, new_module)

    def forward(self, *args: Any, balance_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """The backbone's forward, with the balance term in its loss.

        Args:
            args, kwargs: the backbone's own.
            balance_mask: ``(batch, seq)``, the tokens that count in Eq. 10 where ``attention_mask`` does not tell: all
                zeros for the filler batch of a process without rows.
        """
        if not (self.training and torch.is_grad_enabled() and self._has_active_adapter()):
            return self.model(*args, **kwargs)
        self.recorder.open()
        try:
            outputs = self.model(*args, **kwargs)
        finally:
            self.recorder.close()
            records = self._records()
        config = cast(HyCAMConfig, self.peft_config[self.active_adapters[0]])
        term: Tensor | None = None
        balance: Tensor | None = None
        routing: dict[str, Tensor] = {}
        if records:
            mask = kwargs.get("attention_mask") if balance_mask is None else balance_mask
            balance, routing = routing_statistics(records, mask, config.balance_scope)
            if config.balance_weight:
                term = config.balance_weight * balance
        scored = scored_labels(kwargs.get("labels"), kwargs.get("shift_labels"), config.task_type)
        items = kwargs.get("num_items_in_batch")
        outputs, task_loss = add_balance_term(outputs, term, scored, items, self.recorder.warn_once)
        self.last_stats = TrainingStats(task_loss, None if balance is None else balance.detach(), routing)
        return outputs

    def _has_active_adapter(self) -> bool:
        if not self.active_adapters:
            return False
        return any(not layer.disable_adapters for layer in self._layers(HyCAMLayer))

    def _records(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What the routers did in this forward, ``{layer: (p, logits)}``, taken from the layers."""
        records = {}
        for layer in self._layers(HyCAMLayer):
            if layer.hycam_routing is not None:
                records[layer.hycam_name] = layer.hycam_routing
                layer.hycam_routing = None
        return records


def last_stats(model: nn.Module) -> TrainingStats:
    """Task loss, balance loss and mean routing per layer of the last training forward of a HyCAM model.

    Args:
        model: the PEFT model, as it is or wrapped (DistributedDataParallel, ``torch.compile`` ...).

    Raises:
        ValueError: there is no HyCAM adapter in the model.
    """
    for module in model.modules():
        if isinstance(module, HyCAMModel):
            return module.last_stats
    raise ValueError(f"{type(model).__name__} has no HyCAM adapter, so there are no routing statistics.")
