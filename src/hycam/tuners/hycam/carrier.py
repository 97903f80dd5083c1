"""How the balance term's gradient reaches the backward pass, whichever output of the model a loss is computed from.

A model's outputs mean what they say: ``loss`` contains the term, and every other output has the value that it has
without one. But most trainers of TRL do not read ``loss``. They compute one of their own from the log-probabilities
(SFT, DPO, KTO, GRPO, RLOO) or the logits (reward models), so for them the term would be lost.

All outputs therefore pass one identity function, whose backward adds the term's gradient once. Its weight is that of
the loss in the backward pass. Where ``loss`` was used, this is the gradient that arrives at it. Elsewhere it cannot be
told from the gradients: half of DPO's cancel, and SFT's DFT loss weighs every token by its probability. It is then the
scale that the running ``transformers.Trainer`` gives its loss, which only the trainer knows: one over the micro-batches
of a step, or the share of the labelled tokens, times the factor of a gradient scaler.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Trainer

NO_LABELS = (
    "HyCAM's balance loss (Eq. 10) does not act on this path: the training forward got no `labels`, so the model "
    "computes no loss, and nothing tells how a loss of your own is scaled. Label smoothing and `compute_loss_func` "
    "take the labels away; leave the loss to the model, or set `balance_weight=0` if that is what you want."
)
NOT_THE_LOSS = (
    "HyCAM's balance loss (Eq. 10) did not act: the backward pass went through other outputs of the model than `loss`, "
    "and nothing tells how a loss of your own is scaled. Compute it in a `transformers.Trainer` (as TRL's trainers do, "
    "except with fp16 under DeepSpeed), add `outputs.loss` to it, or set `balance_weight=0` if that is what you want."
)


@torch.compiler.disable  # the caller's frames cannot be traced
def carry(
    term: Tensor,
    share: Tensor | None,
    loss: Tensor | None,
    scored: Tensor | None,
    outputs: Mapping[Any, Any],
    warn: Callable[[str], None],
) -> dict[Any, Any]:
    """The outputs that a loss may be computed from, carrying the gradient of ``term``.

    Args:
        term: Eq. 10 times its weight, a scalar.
        share: this micro-batch's part of the whole batch's loss; None for all of it.
        loss: the model's own loss; None where it computed none.
        scored: the labels in the loss, -100 where there is none; None without labels.
        outputs: everything that the model returned, by name or position.
        warn: called with a message for the user where the term cannot act.

    Returns:
        ``outputs``, with the term in the loss and all else unchanged; empty where the term cannot act.
    """
    trainer, items = _running_trainer()
    if loss is None and not _scales_a_loss_of_its_own(trainer):
        warn(NO_LABELS)
        return {}
    tensors = [one for value in outputs.values() for one in _tensors(value)]
    own = next((place for place, one in enumerate(tensors) if one is loss), None)
    if loss is not None:
        term = term.to(loss.device)
    reader = _Reader(own, scored, items, trainer, warn)
    carried = dict(zip(map(id, tensors), _Carried.apply(term, share, reader, *tensors), strict=True))

    def replaced(value: Any) -> Any:
        return tuple(map(replaced, value)) if type(value) is tuple else carried.get(id(value), value)

    return {name: replaced(value) for name, value in outputs.items()}


def _tensors(value: Any) -> list[Tensor]:
    """The tensors with a gradient: an output itself, or those in a tuple (the hidden states of all layers)."""
    values = value if type(value) is tuple else (value,)
    return [one for one in values if isinstance(one, Tensor) and one.requires_grad]


class _Reader(NamedTuple):
    """What is known about who reads the outputs: where ``loss`` is among them, the labels, and the trainer."""

    loss: int | None
    scored: Tensor | None
    items: Tensor | int | None
    trainer: Trainer | None
    warn: Callable[[str], None]

    def weight(self) -> Tensor | float | None:
        """The weight of a loss that the trainer computes itself; None where it is unknown."""
        trainer = self.trainer
        if trainer is None or not _scales_a_loss_of_its_own(trainer):
            return None
        accelerator = trainer.accelerator
        if accelerator.distributed_type == "DEEPSPEED" and accelerator.mixed_precision == "fp16":
            return None  # the engine has a scale of its own
        scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
        if self.items is None or self.scored is None or not _is_normalized_by_tokens(trainer):
            return scale / trainer.current_gradient_accumulation_steps
        if trainer.args.average_tokens_across_devices:  # then `items` are those of all processes, whose mean DDP takes
            scale *= accelerator.num_processes // trainer.get_tp_size()
        return scale * torch.ne(self.scored, -100).sum() / self.items


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Tensor, share: Tensor | None, reader: _Reader, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.share, ctx.reader, ctx.device, ctx.dtype = share, reader, term.device, term.dtype
        return tuple(
            # `detach` shares the memory, and its result may be changed in place, which a view's may not.
            output + (term if share is None else term * share) if place == reader.loss else output.detach()
            for place, output in enumerate(outputs)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        reader = ctx.reader
        weight = None if reader.loss is None else gradients[reader.loss]
        if weight is not None:
            weight = weight if ctx.share is None else weight * ctx.share
        elif any(gradient is not None for gradient in gradients):
            weight = reader.weight()
            if weight is None:
                reader.warn(NOT_THE_LOSS)
        if weight is not None:
            weight = torch.as_tensor(weight, device=ctx.device).to(ctx.dtype)
        return weight, None, None, *gradients


def _running_trainer() -> tuple[Trainer | None, Tensor | int | None]:
    """The ``transformers.Trainer`` whose training step runs this forward, and the labelled tokens of its whole batch.

    It is found as the owner of the calling ``training_step``: a trainer hands the model neither itself nor its scale.
    Both are None where there is none.
    """
    if "transformers.trainer" not in sys.modules:
        return None, None
    from transformers import Trainer

    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "training_step" and isinstance(owner := frame.f_locals.get("self"), Trainer):
            return owner, frame.f_locals.get("num_items_in_batch")
        frame = frame.f_back
    return None, None


def _scales_a_loss_of_its_own(trainer: Trainer | None) -> bool:
    """Whether a loss that this trainer computes from other outputs than ``loss`` is scaled in a known way.

    Label smoothing and a user's own loss function weigh by labelled tokens that the model never sees.
    """
    if trainer is None:
        return False
    return trainer.label_smoother is None and not callable(trainer.compute_loss_func)


def _is_normalized_by_tokens(trainer: Trainer) -> bool:
    """Whether the trainer divides a sum over tokens by the labelled tokens of the whole batch."""
    return trainer.model_accepts_loss_kwargs and getattr(trainer, "loss_is_scaled_for_ga", None) is None
