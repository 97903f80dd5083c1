"""Packed weights for the length of a block: inference in fewer products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from hycam.tuners.hycam.layer import HyCAMLayer


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Lets every HyCAM layer compute with packed weights (:mod:`hycam.ops.packed`) for the length of the block.

    ::

        model.eval()
        with hycam.packed(model), torch.no_grad():
            model.generate(**inputs)

    A layer packs its weights in the first forward that can use them: in evaluation mode, without gradients and noise,
    and with the backend ``"auto"``. It drops them at the end of the block, and in a forward that may train. Change an
    adapter in any other way (load weights, move or cast the model) outside the block: packed weights do not follow.
    For a model without HyCAM layers the block does nothing.
    """
    layers = [module for module in model.modules() if isinstance(module, HyCAMLayer) and module.hycam_packed is None]
    for layer in layers:
        layer.hycam_packed = {}
    try:
        yield
    finally:
        for layer in layers:
            layer.hycam_packed = None
