"""The packed weights that a layer keeps in inference, for as long as they are what its weights would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hycam.ops import Modulation
from hycam.ops.packed import Packed, pack, supports, tensors
from hycam.ops.products import product_type
from hycam.tuners.hycam.config import HyCAMConfig

if TYPE_CHECKING:
    from hycam.tuners.hycam.layer import HyCAMLayer

# Of each tensor so many values, evenly spread, tell whether it was written to behind the version counter.
_PROBES = 64


class PackedWeights:
    """What one layer keeps packed.

    Every forward looks whether the same parameters are in the same places, with the same address and version, and
    whether no optimizer took a step since: those that are fused, or of bitsandbytes, write without a new version. So
    does a write through ``.data``, for which a forward of more than one token, with which new work begins, also
    compares a sample of the values. The layer drops what is kept when its weights are about to change. A copy of it,
    pickled or not, starts empty.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()

    def of(self, layer: HyCAMLayer, adapter: str, begins: bool) -> tuple[Modulation, Callable[[], Packed] | None]:
        """The layer's weights, and how to get them packed; None instead of that where they cannot be.

        They are packed when the packed ones are asked for. Only whole parameters of a module are: those that a sharded
        model gathers for the length of a forward (FSDP's views, ZeRO's parameters) would stay gathered, and those that
        were made in inference mode have no version.

        Args:
            layer: the layer.
            adapter: the active adapter.
            begins: whether this forward may follow a change that only a sample of the values shows.
        """
        kept, config = self._kept, layer.hycam_config[adapter]
        if kept is not None and kept.holds(adapter, config, begins):
            return kept.weights, kept.get
        self.drop()
        weights = layer.modulation(adapter, config)
        if supports(weights) is not None or not all(_can_be_watched(source) for source in tensors(weights)):
            return weights, None
        return weights, partial(self._pack, layer, adapter, config, weights)

    def drop(self) -> None:
        """Forgets the packed weights, which frees their memory."""
        self._kept = None

    def _pack(self, layer: HyCAMLayer, adapter: str, config: HyCAMConfig, weights: Modulation) -> Packed:
        kept = self._kept = _Kept(layer, adapter, config, weights)
        return kept.packed


class _Kept:
    """Packed weights, and what was there when they were packed.

    It holds on to the memory of the weights themselves, so nothing else can come to lie at their addresses.
    """

    def __init__(self, layer: HyCAMLayer, adapter: str, config: HyCAMConfig, weights: Modulation) -> None:
        sources = tensors(weights)
        self.weights, self.packed = weights, pack(weights)
        self._steps = _optimizer_steps().taken
        self._adapter, self._config, self._settings = adapter, config, _settings(config)
        self._places = list(_places(layer, adapter))
        self._state = [(source, source.data_ptr(), source._version) for source in sources]
        self._type = product_type(sources[0].dtype, sources[0].device)
        # Views, which see every write to the memory, and what they showed.
        flat = [source.detach().flatten() for source in sources]
        self._views = [values[:: max(1, len(values) // _PROBES)] for values in flat]
        self._seen = torch.cat(self._views)

    def get(self) -> Packed:
        return self.packed

    def holds(self, adapter: str, config: HyCAMConfig, begins: bool) -> bool:
        if adapter != self._adapter or config is not self._config or _settings(config) != self._settings:
            return False
        if _optimizer_steps().taken != self._steps:
            return False
        for holder, key, value in self._places:
            if holder.get(key) is not value:
                return False
        for source, address, version in self._state:
            if source.data_ptr() != address or source._version != version:
                return False
        first = self._state[0][0]
        if product_type(first.dtype, first.device) != self._type:
            return False
        return not begins or torch.equal(torch.cat(self._views), self._seen)


class _OptimizerSteps:
    """How many steps all optimizers of this process took since it was first asked."""

    def __init__(self) -> None:
        self.taken = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: object) -> None:
        self.taken += 1


_optimizer_steps = cache(_OptimizerSteps)


def _settings(config: HyCAMConfig) -> tuple[object, ...]:
    """What can be changed without changing a weight."""
    return config.temperature, config.routing, config.alpha, config.r


def _places(layer: HyCAMLayer, adapter: str) -> Iterator[tuple[dict[str, Any], str, object]]:
    """The dictionaries through which the layer reaches the weights of an adapter, with key and value.

    They are looked into directly: ``getattr`` takes ten times as long, thirty times a token.
    """
    for attribute in layer.adapter_layer_names:
        holder = layer._modules[attribute]
        if isinstance(holder, nn.ModuleDict) and adapter in holder:
            yield layer._modules, attribute, holder
            yield holder._modules, adapter, holder[adapter]
            for name, parameter in holder[adapter]._parameters.items():
                yield holder[adapter]._parameters, name, parameter


def _can_be_watched(source: Tensor) -> bool:
    return type(source) is nn.Parameter and "ds_id" not in source.__dict__ and not source.is_inference()
