"""A model while it is measured: evaluation mode, no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hycam.tuners.hycam import packed


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and with HyCAM's weights packed (:func:`hycam.packed`).

    Afterwards every submodule is in the mode in which it was found.

    ``no_grad`` and not ``inference_mode``: rotary embeddings keep tensors between calls, and one made in inference
    mode would fail the next training step.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), packed(model):
            yield
    finally:
        for module in training:
            module.training = True
