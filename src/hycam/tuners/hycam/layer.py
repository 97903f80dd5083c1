"""The wrapper around one attention module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hycam.attention import hidden_states_argument
from hycam.errors import HycamError
from hycam.ops import Dense, LowRank, Modulation, Router, current_backend, gumbel_noise, modulate
from hycam.ops import packed as packing
from hycam.ops.packed import Packed
from hycam.tuners.hycam.balance import RoutingRecorder
from hycam.tuners.hycam.config import HyCAMConfig
from hycam.tuners.hycam.part import MODULATION, HyCAMPart
from hycam.tuners.weights import Weight

_INNER = ("hycam_shared_N", "hycam_N", "hycam_shared_N_bias", "hycam_N_bias")


class HyCAMLayer(HyCAMPart):
    r"""An attention module whose output is scaled by a factor computed from its input.

    .. math::
        h_\text{out} = h_\text{att} \odot
            \Bigl(1 + \text{SiLU}(h W_\text{shared}) + \sum_k p_k\,\text{SiLU}(h A_k N_k B_k)\Bigr)

    HyCAM, Eq. 4 to 12, with ``h`` the hidden states that the attention module receives and ``h_att`` the first element
    of what it returns, both ``(batch, seq, d)``. All else passes through: arguments, further outputs, attributes.

    With ``modulation_target="residual_stream"`` the factor ``1 + m`` scales the residual stream and ``h_att`` together.
    The block adds the residual after this module, so what is added to it here is ``m`` times the residual.

    Args:
        base_layer: the attention module.
        hidden_size: d.
        initializer_range: standard deviation of the weights of a router that is not trained.
        name: the module's name in the backbone, under which its routing is recorded.
        recorder: where the routing of a training step is collected for the balance loss.
    """

    adapter_layer_names = MODULATION
    other_param_names = ("hycam_config",)

    def __init__(
        self, base_layer: nn.Module, hidden_size: int, initializer_range: float, name: str, recorder: RoutingRecorder
    ) -> None:
        super().__init__(base_layer)
        self.hycam_hidden_size = hidden_size
        self.hycam_initializer_range = initializer_range
        self.hycam_name = name
        self.hycam_recorder = recorder
        self.hycam_argument = hidden_states_argument(base_layer)
        self.hycam_config: dict[str, HyCAMConfig] = {}
        self.hycam_routing: tuple[Tensor, Tensor] | None = None  # of the training forward under way
        self.hycam_residual: Tensor | None = None
        self.hycam_residual_hook: RemovableHandle | None = None
        # In a `packed` block, by adapter; None for an adapter whose weights cannot be packed.
        self.hycam_packed: dict[str, Packed | None] | None = None

    def update_layer(self, adapter_name: str, config: HyCAMConfig) -> None:
        """Adds the weights of one adapter. Shapes are those of the saved keys; ``d`` is the hidden size."""
        d, r, experts = self.hycam_hidden_size, config.r, config.num_specialized
        if config.shared == "full":
            self.hycam_shared[adapter_name] = nn.Linear(d, d, bias=config.use_bias)
        elif config.shared == "low_rank":
            self._add_low_rank("hycam_shared_", adapter_name, (), d, config.shared_r or r, config.use_bias)
        if config.specialized == "low_rank":
            self._add_low_rank("hycam_", adapter_name, (experts,), d, r, config.use_bias)
        elif config.specialized == "full":
            self.hycam_specialized[adapter_name] = Weight(torch.empty(experts, d, d))
        if config.specialized != "none":
            self.hycam_router[adapter_name] = nn.Linear(d, experts, bias=config.router_bias)
        self.hycam_config[adapter_name] = config
        self.reset_adapter_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def _add_low_rank(self, prefix: str, adapter: str, stack: tuple[int, ...], d: int, r: int, bias: bool) -> None:
        for letter, rows, columns in (("A", r, d), ("N", r, r), ("B", d, r)):
            getattr(self, f"{prefix}{letter}")[adapter] = Weight(torch.empty(*stack, rows, columns))
            if bias:
                getattr(self, f"{prefix}{letter}_bias")[adapter] = Weight(torch.empty(*stack, rows))

    @torch.no_grad()
    def reset_adapter_parameters(self, adapter_name: str, identity: bool) -> None:
        """A and N uniform in ``±1/sqrt(fan_in)`` (Kaiming with a = sqrt 5, as ``nn.Linear``), for each module apart.

        ``identity``: the shared map, B and all biases start at zero, so the modulation is exactly 1. N has to be random
        as well: with N at zero, B would never get a gradient. Otherwise those are drawn like A and N.

        A router that is not trained has normal weights with the standard deviation of the backbone's initialisation, as
        in the released code, where it was left as the library draws a linear layer. Inner maps that are not trained are
        the identity.
        """
        for attribute in self.adapter_layer_names:
            holder = getattr(self, attribute)
            if adapter_name not in holder:
                continue
            starts_at_zero = (
                attribute in ("hycam_shared", "hycam_specialized") or "B" in attribute or "bias" in attribute
            )
            for parameter in holder[adapter_name].parameters():
                if identity and (starts_at_zero or parameter.dim() == 1):
                    parameter.zero_()
                else:
                    # Biases are drawn with the bound of the map they belong to; any small range would do in a test.
                    fan_in = self.hycam_hidden_size if parameter.dim() == 1 else parameter.shape[-1]
                    parameter.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        frozen = _frozen(self.hycam_config[adapter_name])
        if "hycam_router" in frozen and adapter_name in self.hycam_router:
            self.hycam_router[adapter_name].weight.normal_(std=self.hycam_initializer_range)
        for attribute in set(_INNER) & set(frozen):
            if adapter_name in getattr(self, attribute):
                inner = getattr(self, attribute)[adapter_name].weight  # [r, r] or [K, r, r]; its bias [r] or [K, r]
                inner.copy_(torch.zeros_like(inner) if "bias" in attribute else torch.eye(inner.shape[-1]))

    @property
    def needs_residual(self) -> bool:
        """Whether one of its adapters modulates the residual stream."""
        return any(config.modulation_target == "residual_stream" for config in self.hycam_config.values())

    def watch_residual(self, norm: nn.Module) -> None:
        """From now on keeps the residual stream that goes into ``norm``, the block's norm before the attention.

        The norm and not the block, because gradient checkpointing runs only the inside of a block again.
        """
        self.hycam_residual_hook = norm.register_forward_pre_hook(self._keep_residual)

    def unwatch_residual(self) -> None:
        if self.hycam_residual_hook is not None:
            self.hycam_residual_hook.remove()
        self.hycam_residual_hook = self.hycam_residual = None

    def _keep_residual(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.hycam_residual = args[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Always taken out of the module, where it would outlive the forward.
        residual = self.hycam_residual
        if residual is not None:
            self.hycam_residual = None
        result = self.base_layer(*args, **kwargs)
        if self.disable_adapters or not self.active_adapters:
            return result
        adapter = self.active_adapters[0]
        if adapter not in self.hycam_config:
            return result
        h = self.hidden_states(args, kwargs)
        a, *rest = result if isinstance(result, tuple) else (result,)
        config = self.hycam_config[adapter]
        d = self.hycam_hidden_size
        if h.shape[-1] != d or a.shape[-1] != d:
            raise HycamError(
                f"{self.hycam_name} takes a hidden state of width {h.shape[-1]} and returns one of {a.shape[-1]}; "
                f"HyCAM needs both to be the backbone's {d}. Leave it out with exclude_modules."
            )
        if config.modulation_target == "attention_output":
            residual = None
        elif residual is None:
            raise HycamError(
                f"{self.hycam_name} is called outside its block, so there is no residual stream to modulate. Call the "
                'block or the model, or use modulation_target="attention_output".'
            )
        noise = None
        # Training mode alone does not tell: trainers that learn from a model's own answers generate them in it too.
        learns = self.training and torch.is_grad_enabled()
        if config.specialized != "none" and (config.noise == "always" or (config.noise == "train" and learns)):
            noise = gumbel_noise(torch.Size((*h.shape[:-1], config.num_specialized)), h.device)
        packed = None if noise is not None else self._packed(adapter, config)
        if packed is None:
            output, routing = modulate(h, a, self.modulation(adapter, config), noise, residual, current_backend())
        else:
            output, routing = packing.modulate(h, a, packed, residual)
        if self.training and self.hycam_recorder.takes(routing is not None, config.balance_weight):
            self.hycam_routing = routing
        return (output, *rest) if isinstance(result, tuple) else output

    def _packed(self, adapter: str, config: HyCAMConfig) -> Packed | None:
        """The packed weights, in a block of :func:`hycam.packed` and in a forward that can use them.

        Only whole parameters are packed: those that a sharded model gathers for a forward (FSDP's views, ZeRO's
        parameters) would stay gathered.
        """
        if torch.compiler.is_compiling() or self.hycam_packed is None:
            return None
        if self.training or torch.is_grad_enabled():
            self.hycam_packed.clear()  # a step may follow
            return None
        if current_backend() != "auto":
            return None
        if adapter not in self.hycam_packed:
            weights = self.modulation(adapter, config)
            is_whole = all(type(one) is nn.Parameter and "ds_id" not in vars(one) for one in weights.tensors())
            can_be = is_whole and packing.supports(weights) is None
            self.hycam_packed[adapter] = packing.pack(weights) if can_be else None
        return self.hycam_packed[adapter]

    def hidden_states(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """``h`` out of what the attention module is called with."""
        name, position = self.hycam_argument
        return kwargs[name] if name in kwargs else args[position]

    def modulation(self, adapter: str, config: HyCAMConfig) -> Modulation:
        """The weights of an adapter as the arithmetic takes them."""
        shared: Dense | LowRank | None = None
        if config.shared == "full":
            shared = Dense(self.hycam_shared[adapter].weight, self.hycam_shared[adapter].bias)
        elif config.shared == "low_rank":
            shared = self._low_rank("hycam_shared_", adapter, config, config.shared_scale)
        specialized: Dense | LowRank | None = None
        if config.specialized == "low_rank":
            specialized = self._low_rank("hycam_", adapter, config, config.scale)
        elif config.specialized == "full":
            specialized = Dense(self.hycam_specialized[adapter].weight)
        router = None
        if specialized is not None:
            linear = self.hycam_router[adapter]
            router = Router(linear.weight, linear.bias, config.temperature, config.routing == "hard")
        return Modulation(shared, specialized, router)

    def _low_rank(self, prefix: str, adapter: str, config: HyCAMConfig, scale: float) -> LowRank:
        def of(suffix: str) -> list[Tensor]:
            return [getattr(self, f"{prefix}{letter}{suffix}")[adapter].weight for letter in "ANB"]

        A, N, B = of("")
        if not config.use_bias:
            return LowRank(A, N, B, scale=scale)
        A_bias, N_bias, B_bias = of("_bias")
        return LowRank(A, N, B, A_bias, N_bias, B_bias, scale)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._freeze()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        self._freeze()

    def _freeze(self) -> None:
        """Freezes what an adapter does not train: PEFT makes all weights of an active adapter trainable."""
        for adapter, config in self.hycam_config.items():
            for attribute in _frozen(config):
                if adapter in getattr(self, attribute):
                    getattr(self, attribute)[adapter].requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have nothing packed, since no block would end for them."""
        return {**self.__dict__, "hycam_packed": None}

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT looks for `.weight`, which an attention module does not have. In a quantised backbone the weights are
        # integers; norms or biases beside them, if any, then give the type.
        parameters = list(self.base_layer.parameters())
        like = next((p for p in parameters if p.is_floating_point()), next(iter(parameters), None))
        if like is None:
            return
        dtype = like.dtype if like.is_floating_point() else None
        for attribute in self.adapter_layer_names:
            holder = getattr(self, attribute)
            if adapter_name in holder and not any(p.is_meta for p in holder.parameters()):
                holder[adapter_name] = holder[adapter_name].to(device or like.device, dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


def _frozen(config: HyCAMConfig) -> tuple[str, ...]:
    """The attributes of a layer that an adapter of this configuration does not train."""
    return (() if config.train_router else ("hycam_router",)) + (() if config.train_inner else _INNER)
