"""Which method and variant meets which architecture in the contract suite, and HyCAM which backend."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor

from architectures import ARCHITECTURES, OF_EXPERTS, tiny, tokens
from hycam import packed
from hycam.adapt import adapt, matched_settings
from hycam.methods import FULL, METHODS, method
from hycam.ops import BACKENDS
from hycam.ops.dispatch import unavailable

# The method's own rank does not suit width 32, and these find theirs or have none.
_OWN_RANK = [name for name, entry in METHODS.items() if entry.same_size_as or not hasattr(entry.config_class, "r")]

# Every method of the table, and the variants that change how one computes.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {} if name in _OWN_RANK else {entry.rank: 4}) for name, entry in METHODS.items()},
    "hycam, hard routing": ("hycam", {"r": 4, "routing": "hard"}),
    "hycam, without noise": ("hycam", {"r": 4, "noise": "never"}),
    "hycam, biases": ("hycam", {"r": 4, "use_bias": True, "router_bias": True}),
    "hycam, low-rank shared, alpha": ("hycam", {"r": 4, "shared": "low_rank", "alpha": 8, "use_bias": True}),
    "hycam, pooled balance": ("hycam", {"r": 4, "balance_scope": "pooled"}),
    "hycam, one layer": ("hycam", {"r": 4, "layers_to_transform": [1]}),
    "hycam, frozen router": ("hycam", {"r": 4, "train_router": False, "router_bias": True}),
    "hycam, inner maps fixed": ("hycam", {"r": 4, "train_inner": False, "shared": "low_rank", "use_bias": True}),
    "hycam, trained norms": ("hycam", {"r": 4, "train_norms": True}),
    "hycam, residual stream": ("hycam", {"r": 4, "modulation_target": "residual_stream"}),
    "hycam-ffn, router, biases": (
        "hycam-ffn",
        {
            "r": 4,
            "ffn_r": 3,
            "ffn_alpha": 6,
            "specialized": "low_rank",
            "shared": "low_rank",
            "shared_r": 2,
            "use_bias": True,
        },
    ),
    "hycam-ffn, one layer": ("hycam-ffn", {"r": 4, "ffn_r": 3, "layers_to_transform": [1]}),
    "multilora, alpha, one layer": ("multilora", {"r": 4, "alpha": 8, "layers_to_transform": [1]}),
    "moe-lora, one expert a token": ("moe-lora", {"r": 4, "num_experts": 3, "top_k": 1}),
    "riemoe-lora, all experts": ("riemoe-lora", {"r": 4, "top_k": 5, "alpha": 8}),
}

# The residual stream is modulated in the sequential pre-norm blocks of these only; all others are refused.
SEQUENTIAL = ("llama", "mistral", "qwen2")
# With one expert a token its renormalised gate is 1, whatever the gate's weights are.
UNTRAINED = {"moe-lora, one expert a token": "moelora_gate"}


class Case(NamedTuple):
    variant: str
    architecture: str
    backend: str = "auto"

    @property
    def name(self) -> str:
        return f"{self.architecture} / {self.variant}" + (f" / {self.backend}" if self.backend != "auto" else "")

    @property
    def is_hycam(self) -> bool:
        return self.variant.startswith("hycam")

    @property
    def is_adapter(self) -> bool:
        """Whether there is an adapter beside the backbone; full fine-tuning trains the backbone itself."""
        return self.variant != FULL

    @property
    def settings(self) -> dict[str, Any]:
        method_name, settings = VARIANTS[self.variant]
        return {**METHODS[method_name].settings, **settings}

    @property
    def prefix(self) -> str:
        """What the names of the adapter's weights begin with."""
        return PEFT_TYPE_TO_PREFIX_MAPPING[METHODS[VARIANTS[self.variant][0]].config().peft_type]

    @property
    def exists(self) -> bool:
        residual = self.settings.get("modulation_target") == "residual_stream"
        experts = "hycam-ffn" in VARIANTS[self.variant][0] and self.architecture in OF_EXPERTS
        return not experts and (not residual or self.architecture in SEQUENTIAL)

    def trains(self, name: str) -> bool:
        """Whether the parameter of that name is trained."""
        if not self.is_adapter:
            return True
        if "hycam_router" in name:
            return self.settings.get("train_router", True)
        if "hycam_N" in name or "hycam_shared_N" in name:
            return self.settings.get("train_inner", True)
        return any(part in name for part in (self.prefix, "modules_to_save"))

    def base(self, **changes: Any) -> torch.nn.Module:
        return tiny(self.architecture, **changes)

    def attach(
        self, base: torch.nn.Module, adapter: str = "default", trained_seed: int | None = None, quiet: bool = False
    ) -> PeftModel:
        """A fresh adapter on ``base``; with ``trained_seed`` all its weights are random, as if it had been trained.

        ``quiet`` takes the noise out of a variant that has it in evaluation too, for what it would hide.
        """
        name, settings = VARIANTS[self.variant]
        if quiet and self.is_hycam:
            settings = {**settings, "noise": "never"}
        torch.manual_seed(7)
        if isinstance(base, PeftModel):
            if METHODS[name].same_size_as:
                settings = matched_settings(METHODS[name], settings, base.config)
            base.add_adapter(adapter, method(name.removesuffix("-matched")).config(settings))
            model = base
        else:
            model = adapt(base, name, settings)
        if trained_seed is not None:
            train_by_chance(model, trained_seed, adapter)
        return model.eval()


# On a CPU "auto" trains with the eager form; `logits` has it infer with the packed one. Triton's kernels run in its
# interpreter.
FORCED = [name for name in BACKENDS if unavailable(name) is None]
ROUTED = [variant for variant in VARIANTS if variant.startswith("hycam")]


def _met(at: int, variant: str, number: int) -> list[str]:
    """So many architectures for the variant at a place, others for each place."""
    able = [name for name in ARCHITECTURES if Case(variant, name).exists]
    return list(dict.fromkeys(able[(at + 7 * further) % len(able)] for further in range(number)))


# Pairwise for `make test`: every architecture with each of the project's own adapters, every variant on the paper's
# first family, every variant of HyCAM with one backend. `make soak` has all but those of Triton; tests/ops compares the
# backends.
_BROAD = ("hycam", "hycam-ffn", "multilora", "riemoe-lora")
CASES = [Case(variant, architecture) for variant in _BROAD for architecture in ARCHITECTURES]
CASES += [Case(variant, "llama") for variant in VARIANTS if variant not in _BROAD]
CASES += [Case("hycam-released", architecture) for architecture in SEQUENTIAL if architecture != "llama"]
CASES += [Case(variant, *_met(at, variant, 1), FORCED[at % len(FORCED)]) for at, variant in enumerate(ROUTED)]
CASES = [case for case in CASES if case.exists]
ALL_CASES = [Case(variant, architecture) for variant in VARIANTS for architecture in ARCHITECTURES]
ALL_CASES += [
    Case(*case, backend) for backend in FORCED if backend != "triton" for case in product(ROUTED, ARCHITECTURES)
]
ALL_CASES = [case for case in ALL_CASES if case.exists]
# Every architecture hands a backend tensors of the same shape, type, strides and gradients, and the interpreter takes
# most of the time: each variant meets four architectures there, so that each architecture meets a variant at least.
if "triton" in FORCED:
    ALL_CASES += [Case(variant, met, "triton") for at, variant in enumerate(ROUTED) for met in _met(at, variant, 4)]


@torch.no_grad()
def train_by_chance(model: PeftModel, seed: int, adapter: str = "default") -> None:
    """Random values for every weight of an adapter, large enough to change the logits visibly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not isinstance(model, PeftModel):
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        elif f".modules_to_save.{adapter}" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif f".{adapter}" in name and PEFT_TYPE_TO_PREFIX_MAPPING[model.peft_config[adapter].peft_type] in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(model: torch.nn.Module, ids: Tensor | None = None, **kwargs: Any) -> Tensor:
    """The logits, of packed weights where there can be such.

    Noise that a variant draws in evaluation too is the same in every call.
    """
    torch.manual_seed(13)
    with packed(model):
        return model(input_ids=tokens() if ids is None else ids, **kwargs).logits
