"""Which method and variant meets which architecture in the contract suite."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from architectures import ARCHITECTURES, tiny, tokens
from hycam.adapt import adapt
from hycam.methods import METHODS

# Every method of the table, and the variants of HyCAM that change how it computes, of a rank that suits width 32.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"r": 4}) for name in METHODS},
    "hycam, hard routing": ("hycam", {"r": 4, "routing": "hard"}),
    "hycam, without noise": ("hycam", {"r": 4, "noise": "never"}),
    "hycam, biases": ("hycam", {"r": 4, "use_bias": True, "router_bias": True}),
    "hycam, low-rank shared, alpha": ("hycam", {"r": 4, "shared": "low_rank", "alpha": 8, "use_bias": True}),
    "hycam, pooled balance": ("hycam", {"r": 4, "balance_scope": "pooled"}),
    "hycam, one layer": ("hycam", {"r": 4, "layers_to_transform": [1]}),
}


class Case(NamedTuple):
    variant: str
    architecture: str

    @property
    def name(self) -> str:
        return f"{self.architecture} / {self.variant}"

    @property
    def is_hycam(self) -> bool:
        return self.variant.startswith("hycam")

    def base(self, **changes: Any) -> torch.nn.Module:
        return tiny(self.architecture, **changes)

    def attach(self, base: torch.nn.Module, adapter: str = "default", trained_seed: int | None = None) -> PeftModel:
        """A fresh adapter on ``base``; with ``trained_seed`` all its weights are random, as if it had been trained."""
        method, settings = VARIANTS[self.variant]
        torch.manual_seed(7)
        if isinstance(base, PeftModel):
            from hycam.methods import method as of

            base.add_adapter(adapter, of(method).config(settings))
            model = base
        else:
            model = adapt(base, method, settings)
        if trained_seed is not None:
            train_by_chance(model, trained_seed, adapter)
        return model.eval()


# Pairwise for `make test`: every architecture with the paper's method, every variant on the paper's first family.
CASES = [Case("hycam", architecture) for architecture in ARCHITECTURES]
CASES += [Case(variant, "llama") for variant in VARIANTS if variant != "hycam"]
ALL_CASES = [Case(variant, architecture) for variant in VARIANTS for architecture in ARCHITECTURES]


@torch.no_grad()
def train_by_chance(model: PeftModel, seed: int, adapter: str = "default") -> None:
    """Random values for every weight of an adapter, large enough to change the logits visibly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f".{adapter}" in name and ("hycam_" in name or "lora_" in name):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(model: torch.nn.Module, ids: Tensor | None = None, **kwargs: Any) -> Tensor:
    return model(input_ids=tokens() if ids is None else ids, **kwargs).logits
