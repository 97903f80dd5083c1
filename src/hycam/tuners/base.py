"""What every adapter of this project promises beyond PEFT's own base classes.

One adapter is active at a time; weights that do not fit are refused before any is copied; and a model without its last
adapter is the backbone again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from hycam.quantization import keep_weights
from hycam.tuners.fit import Spec, check_fit
from hycam.tuners.older_peft import CheckedBeforeLoading
from hycam.tuners.weights import Weights

ONE_AT_A_TIME = "One adapter of this kind is active at a time, not {}."


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A module of the backbone with the weights of any number of adapters beside it.

    Args:
        base_layer: the module of the backbone.
    """

    linear_names: tuple[str, ...] = ()  # the `adapter_layer_names` that are linear maps, and saved as such
    not_mergeable: str | None = None  # the reason, where a method cannot be merged into the weights

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict() if name in self.linear_names else Weights())

    def adapter_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter by their name in this module, such as ``hycam_A.default.weight``."""
        return {
            f"{attribute}.{name}": parameter
            for attribute in self.adapter_layer_names
            for name, parameter in getattr(self, attribute).named_parameters()
            if name.startswith(f"{adapter}.")
        }

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError(ONE_AT_A_TIME.format(list(adapter_names)))
        super().set_adapter(adapter_names, inference_mode=inference_mode)

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Adds the weights of one adapter."""
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(self.not_mergeable)


_Layer = TypeVar("_Layer", bound=AdapterLayer)


class Tuner(CheckedBeforeLoading):
    """Puts the wrappers of one method into a backbone and takes them out again."""

    config_class: type[PeftConfig]
    tuner_layer_cls: type[AdapterLayer]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # declared so by PEFT

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        keep_weights(model)
        if not isinstance(self.peft_config, _Adapters):
            self.peft_config = _Adapters(self.peft_config, self.config_class)

    def _wrap(self, module: nn.Module, name: str) -> AdapterLayer:
        """The method's layer around a module of the backbone."""
        return self.tuner_layer_cls(module)

    def _layers(self, kind: type[_Layer]) -> list[_Layer]:
        """The method's layers of a kind in the backbone."""
        return [module for module in self.model.modules() if isinstance(module, kind)]

    def _create_and_replace(  # type: ignore[override]
        self, config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, current_key: str,
        **_: Any,
    ) -> None:  # fmt: skip
        if not isinstance(target, self.tuner_layer_cls):
            layer = self._wrap(target, current_key)
            self._replace_module(parent, target_name, layer, target)
            target = layer
        target.update_layer(adapter_name, config)

    def _check_merge_allowed(self) -> None:
        if self.tuner_layer_cls.not_mergeable:
            raise ValueError(self.tuner_layer_cls.not_mergeable)
        super()._check_merge_allowed()

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(ONE_AT_A_TIME.format(list(adapter_name)))
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        if was_active and self.active_adapters:
            # The next adapter may have modules_to_save that the deleted one did not have; PEFT leaves those inactive.
            self.set_adapter(self.active_adapters)

    def unload(self) -> nn.Module:
        """The backbone as it was. PEFT's own version would leave trained ``modules_to_save`` in it."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.original_module)
            if isinstance(module, AdapterLayer) and module.merged:
                module.unmerge()
        return super().unload()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT calls this around a forward; ``adapter_names`` would name an adapter for each row of the batch."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError(ONE_AT_A_TIME.format(kwargs["adapter_names"]) + " `adapter_names` is not supported.")
        yield

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name in a saved adapter: ``hycam_A`` for ``hycam_A.default.weight``. PEFT asks for it to load, too."""
        saved = super()._remove_adapter_name_from_key(key, adapter_name)
        layer, bare = cls.tuner_layer_cls, saved.removesuffix(".weight")
        is_weight = bare.rpartition(".")[2] in set(layer.adapter_layer_names) - set(layer.linear_names)
        return bare if is_weight else saved

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Refuses weights that do not fit before any of them is copied.

        PEFT would silently skip a missing one, copy integers into floating-point weights, and let a file replace
        weights of the backbone. Only the backbone's embeddings may be in the file: PEFT saves them after a resize.
        """
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        own = {
            f"{name}.{key}": Spec.of(value)
            for name, layer in model.named_modules()
            if isinstance(layer, cls.tuner_layer_cls)
            for key, value in layer.adapter_parameters(adapter_name).items()
        }
        saved = f".modules_to_save.{adapter_name}."
        whole = model.state_dict()
        own |= {name: Spec.of(value) for name, value in whole.items() if saved in name}
        # The trained ones are in `own`. For a resized backbone the file has them a second time, under a name that
        # matches nothing.
        embeddings = {
            cls._remove_adapter_name_from_key(name, adapter_name) if saved in name else name: Spec.of(whole[name])
            for name in _embeddings(model)
            if saved in name or ".modules_to_save." not in name
        }
        check_fit(own, {name: Spec.of(value) for name, value in remapped.items()}, embeddings)
        return remapped


def _embeddings(model: nn.Module) -> Iterator[str]:
    """The names of the weights of the backbone's input and output embeddings."""
    found = [getattr(model, f"get_{side}_embeddings", lambda: None)() for side in ("input", "output")]
    for name, module in model.named_modules():
        if any(module is one for one in found):
            yield from (f"{name}.{key}" for key in module.state_dict())


class _Adapters(dict[str, PeftConfig]):
    """The configurations by adapter, with two look-ups of ``PeftModel`` that bypass the tuner's methods."""

    def __init__(self, adapters: dict[str, PeftConfig], config_class: type[PeftConfig]) -> None:
        super().__init__(adapters)
        self.config_class = config_class

    def __contains__(self, name: object) -> bool:
        """``PeftModel.set_adapter`` asks this first, and a list of names would be an unhashable key."""
        if isinstance(name, (list, tuple)):
            raise ValueError(ONE_AT_A_TIME.format(list(name)))
        return super().__contains__(name)

    def __missing__(self, name: str) -> PeftConfig:
        """``PeftModel.forward`` looks up the last active adapter, even when it has been deleted.

        A default configuration lets the call pass to layers that, without an adapter, are the backbone's.
        """
        if self:
            raise KeyError(name)
        return self.config_class()
