"""The models whose training steps are compared, and one step of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def sharing_weights(backbone: PreTrainedModel) -> PreTrainedModel:
    """A copy with modules of its own, which an adapter may replace, around the same weights."""
    return copy.deepcopy(backbone, {id(parameter): parameter for parameter in backbone.parameters()})


def step(loss: Callable[[], Tensor], trained: Iterable[nn.Parameter]) -> Callable[[], None]:
    """Forward, backward and AdamW (PyTorch's fused one)."""
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def forward_backward_and_update() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return forward_backward_and_update


def adapter_step(model: nn.Module, ids: Tensor, autocast: bool = False) -> Callable[[], None]:
    """A training step of an adapted model on ``ids`` ``(batch, seq)``, all of them labelled.

    ``autocast``: the forward pass runs under autocast to bfloat16.
    """

    def loss() -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            return model(input_ids=ids, labels=ids).loss

    return step(loss, (parameter for parameter in model.parameters() if parameter.requires_grad))


def frozen_step(model: PreTrainedModel, ids: Tensor) -> Callable[[], None]:
    """Forward, and backward through the frozen backbone to its embeddings: no gradient of a weight, nothing trained."""
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    return lambda: model(inputs_embeds=embeddings, labels=ids).loss.backward(inputs=[embeddings])
