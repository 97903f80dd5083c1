"""``train_inner=False``: the inner map N is the identity, so a specialised module is ``B_k A_k``."""

from __future__ import annotations

import torch
from peft import get_peft_model
from torch.nn import functional as F

from architectures import tiny
from hycam import HyCAMConfig
from hycam.tuners.hycam import HyCAMLayer


def first_layer(model) -> HyCAMLayer:
    return next(module for module in model.modules() if isinstance(module, HyCAMLayer))


def test_the_factor_is_that_of_plain_low_rank_products() -> None:
    config = HyCAMConfig(task_type="CAUSAL_LM", r=4, train_inner=False, noise="never", init_weights=False)
    layer = first_layer(get_peft_model(tiny(), config))
    h = torch.randn(2, 5, layer.hycam_hidden_size, dtype=torch.float64)
    with torch.no_grad():
        A, B = layer.hycam_A["default"].weight.double(), layer.hycam_B["default"].weight.double()
        p = torch.softmax(h @ layer.hycam_router["default"].weight.double().T / config.temperature, dim=-1)
        each = torch.stack([F.silu(h @ A[k].T @ B[k].T) for k in range(config.num_specialized)], dim=-1)
        expected = 1 + F.silu(h @ layer.hycam_shared["default"].weight.double().T) + (each * p.unsqueeze(-2)).sum(-1)
        layer.base_layer = Ones()
        found = layer.eval()(hidden_states=h.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


class Ones(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(hidden_states)
