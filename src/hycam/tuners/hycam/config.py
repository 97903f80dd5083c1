"""The configuration of a HyCAM adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

_CHOICES: dict[str, tuple[str, ...]] = {
    "shared": ("full", "low_rank", "none"),
    "specialized": ("low_rank", "full", "none"),
    "routing": ("soft", "hard"),
    "noise": ("train", "always", "never"),
    "balance_scope": ("layer", "pooled"),
    "modulation_target": ("attention_output", "residual_stream"),
}


@dataclass
class HyCAMConfig(PeftConfig):
    """HyCAM (Hybrid Contextual Attention Modulation, CIKM 2025): scales the attention output of every block by
    ``1 + SiLU(h W_shared) + sum_k p_k SiLU(h A_k N_k B_k)``, h being what the attention module receives.

    The defaults are the paper's settings. The four ablations of the paper are values of ``shared`` and
    ``specialized``: Shared-CAM-Only (``full``, ``none``), FullSpec (``full``, ``full``), SpecOnly (``none``,
    ``low_rank``), InversePEFT (``low_rank``, ``full``). The code released with the paper computes something else:
    ``modulation_target="residual_stream"``, ``train_router=False`` and ``train_norms=True``, with ``routing="hard"``,
    ``noise="always"``, ``alpha=32``, both kinds of biases and ``balance_weight=0``.

    Args:
        num_specialized: N_s, how many specialised modules the router chooses among. The paper's 5 matches its five
            tasks; it is no harm to have more modules than tasks.
        r: rank of a specialised module. Its cost grows as ``num_specialized * r * (2 d + r)`` parameters a layer.
        shared: ``"full"`` (one d x d map), ``"low_rank"`` or ``"none"``.
        specialized: ``"low_rank"``, ``"full"`` or ``"none"`` (then there is no router either).
        routing: ``"soft"`` mixes all modules by the Gumbel-softmax; ``"hard"`` takes one per token (straight-through).
        temperature: tau of the Gumbel-softmax. Lower is closer to a choice of one module.
        noise: when Gumbel noise is drawn: ``"train"`` (in training mode and with gradients on, so that answers which a
            trainer generates have none), ``"always"`` (evaluation becomes random, as in the authors' code) or
            ``"never"``.
        balance_weight: weight of the load-balancing loss (Eq. 10) that training with ``labels`` adds to the task loss.
            The released code adds none. Beside ``train_router=False`` it only acts through what the layers below make
            of the router's input, so 0 is the sensible value there; the loss is reported all the same.
        balance_scope: ``"layer"`` averages Eq. 10 over layers; ``"pooled"`` pools the tokens of all layers first.
        alpha: None for the paper's factor 1, or a number: low-rank modules are multiplied by ``alpha / r`` inside
            their SiLU.
        use_bias: biases on the shared map and on A, N and B.
        router_bias: a bias on the router.
        modulation_target: ``"attention_output"`` (the paper, Eq. 12), or ``"residual_stream"`` (the released code): the
            factor scales the sum of the residual stream and the attention output. The latter is for the families of the
            released code, Llama, Mistral and Qwen2; others are refused.
        train_router: True (the paper) trains the router. False (the released code) leaves it as it is drawn, its
            weights normal with the backbone's ``initializer_range`` and its bias zero, and saves it with the adapter.
            Without specialised modules there is no router, and this has no effect.
        train_inner: True (the paper) trains the inner map N of a low-rank module. False fixes it at the identity, so
            that a module is ``B_k A_k`` as in LoRA, and saves it with the adapter.
        train_norms: True (the released code) also trains a copy of each norm of the adapted blocks, the final norm left
            out, and saves it with the adapter; the names are added to ``modules_to_save``. False (the paper) trains
            none.
        target_modules: attention modules to adapt; None finds them all. HyCAM adapts attention modules and nothing
            else, so ``"all-linear"`` or the name of a linear layer is refused.
        exclude_modules: modules to leave out, as in PEFT.
        layers_to_transform: indices of the layers to adapt; all by default.
        layers_pattern: name of the list of layers, where it is not one that PEFT knows.
        modules_to_save: further modules to train and save with the adapter.
        init_weights: True starts at the identity (shared and B at zero). False draws everything at random, which is
            of use in tests only.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    num_specialized: int = field(default=5, metadata={"help": "N_s, the number of specialised modules."})
    r: int = field(default=64, metadata={"help": "Rank of a specialised module."})
    shared: str = field(default="full", metadata={"help": "Shared module: 'full', 'low_rank' or 'none'."})
    specialized: str = field(default="low_rank", metadata={"help": "Specialised: 'low_rank', 'full' or 'none'."})
    routing: str = field(default="soft", metadata={"help": "'soft' (Gumbel-softmax) or 'hard' (straight-through)."})
    temperature: float = field(default=0.5, metadata={"help": "tau of the Gumbel-softmax."})
    noise: str = field(default="train", metadata={"help": "Gumbel noise: 'train', 'always' or 'never'."})
    balance_weight: float = field(default=0.1, metadata={"help": "Weight of the load-balancing loss (Eq. 10)."})
    balance_scope: str = field(default="layer", metadata={"help": "Eq. 10 per 'layer', or 'pooled' over layers."})
    alpha: float | None = field(default=None, metadata={"help": "None: factor 1; a number: alpha / r in the SiLU."})
    use_bias: bool = field(default=False, metadata={"help": "Biases on the shared map and on A, N, B."})
    router_bias: bool = field(default=False, metadata={"help": "A bias on the router."})
    modulation_target: str = field(
        default="attention_output",
        metadata={"help": "'attention_output' (paper) or 'residual_stream' (released code)."},
    )
    train_router: bool = field(
        default=True, metadata={"help": "Train the router (paper), or leave it random (released code)."}
    )
    train_inner: bool = field(
        default=True, metadata={"help": "Train the inner maps N (paper), or fix them at the identity."}
    )
    train_norms: bool = field(default=False, metadata={"help": "Train the blocks' norms too (released code)."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Attention modules to adapt; None finds them."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train and save."})
    init_weights: bool = field(default=True, metadata={"help": "True starts at the identity."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("HYCAM")
        for name in ("target_modules", "exclude_modules"):
            value: Any = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}.")
        for name in ("num_specialized", "r"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value!r}.")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}.")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number above 0, or None for the factor 1, not {self.alpha!r}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature!r}.")
        if not self.balance_weight >= 0:
            raise ValueError(f"balance_weight must not be negative, not {self.balance_weight!r}.")
        if self.shared == "none" and self.specialized == "none":
            raise ValueError('shared and specialized are both "none": nothing would be modulated.')
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform has no effect beside a pattern (target_modules={self.target_modules!r}): "
                "write the layers into the pattern, or leave target_modules at None."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern has no effect without layers_to_transform.")
