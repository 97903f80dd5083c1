"""Collects what the routers did in one training forward, so that the balance loss can be computed after it."""

from __future__ import annotations

import warnings

import torch

REENTRANT = (
    "HyCAM does not work under reentrant gradient checkpointing: what its routers did would carry no gradient, so the "
    "balance loss would silently be dropped. Use the non-reentrant form: "
    "`gradient_checkpointing_kwargs={'use_reentrant': False}`."
)
NO_FORWARD = (
    "HyCAM's balance loss (Eq. 10) is not added on this path: the adapted model is called without the tuner's forward. "
    "This happens with `model.add_adapter(...)` or `inject_adapter_in_model(...)`, and with `get_peft_model` when the "
    "configuration has no `task_type`. Use `get_peft_model(model, HyCAMConfig(task_type='CAUSAL_LM'))`."
)


class RoutingRecorder:
    """Shared by all layers of one tuner, which opens it around a training forward and then collects what they kept.

    Only in between are records kept: when gradient checkpointing runs a layer again in the backward pass the recorder
    is closed, so a recomputation changes nothing.

    A record is kept on its layer. Were it written here, under the layer's name, no graph that ``torch.compile`` makes
    of one block could serve another block.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.was_opened = False
        self.warned: set[str] = set()

    def open(self) -> None:
        self.is_open = self.was_opened = True

    def close(self) -> None:
        self.is_open = False

    def takes(self, has_router: bool, weight: float) -> bool:
        """Whether a layer in training, whose balance loss has ``weight``, is to keep its record now.

        Raises:
            RuntimeError: the layer runs without gradients inside a forward that has them, which is what the reentrant
                form of gradient checkpointing does.
        """
        if self.is_open:
            if not torch.is_grad_enabled():
                raise RuntimeError(REENTRANT)
            return has_router
        if has_router and weight and not self.was_opened and torch.is_grad_enabled():
            self.warn_once(NO_FORWARD)
        return False

    def warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=3)
