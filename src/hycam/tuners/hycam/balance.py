"""The load-balancing term of the objective: its records, Eq. 10 over one micro-batch, and the loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hycam.ops import balance_loss, routing_sums
from hycam.tuners.hycam.carrier import carry

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


@dataclass(frozen=True)
class TrainingStats:
    """What the last training forward did, detached from the graph.

    Attributes:
        task_loss: mean cross-entropy per labelled token of the micro-batch, without the balance term; None where the
            model computed no loss.
        balance_loss: Eq. 10, without its weight; None where there is no router.
        routing: per adapted layer, the routing probabilities averaged over the tokens that are not padding, ``[K]``.
    """

    task_loss: Tensor | None = None
    balance_loss: Tensor | None = None
    routing: dict[str, Tensor] = field(default_factory=dict)


class RoutingRecorder:
    """Shared by all layers of one tuner, which opens it around a training forward and then collects their records.

    Only in between are records kept: when gradient checkpointing runs a layer again in the backward pass the recorder
    is closed, so a recomputation changes nothing.

    Each layer keeps its own record: written here under the layer's name, it would keep ``torch.compile`` from sharing
    one graph among the blocks.
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
        """Whether a layer in training, whose balance loss has ``weight``, keeps its record now.

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


def summed_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all processes, differentiable; ``tensor`` itself where there is one process.

    Eq. 10 is a product of means, so the means have to be those of the whole micro-batch over all ranks.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(tensor)


def routing_statistics(
    records: dict[str, tuple[Tensor, Tensor]], mask: Tensor | None, scope: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 10 and the mean routing of every layer, from ``{layer: (p, logits)}`` with shapes ``(batch, seq, K)``.

    Args:
        records: what the routers did.
        mask: see :func:`_token_mask`. All zeros leave the loss to the tokens of the other processes.
        scope: see :func:`hycam.ops.balance_loss`.
    """
    first = next(iter(records.values()))[0]
    mask = _token_mask(mask, first)
    device = first.device  # of a model that is split over devices, the sums (a few numbers a layer) meet here
    sums = torch.stack(
        [
            routing_sums(p, logits, None if mask is None else mask.to(p.device)).to(device)
            for p, logits in records.values()
        ]
    )
    count = sums.new_tensor(first.shape[0] * first.shape[1]) if mask is None else mask.sum().to(sums)
    # One collective for everything: the count travels with the sums.
    packed = summed_over_ranks(torch.cat((sums.flatten(), count.reshape(1))))
    sums, count = packed[:-1].view_as(sums), packed[-1].detach().clamp(min=1)
    mean_p = (sums[:, 0] / count).detach()
    return balance_loss(sums, count, scope), dict(zip(records, mean_p, strict=True))


def _token_mask(attention_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The padding mask ``(batch, seq)`` of the tokens in this forward; None where every token counts.

    Only a two-dimensional mask tells padding. With a cache it also covers the tokens of earlier forwards.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return None
    return attention_mask[:, -like.shape[1] :]


def add_balance_term(
    outputs: Any, term: Tensor | None, scored: Tensor | None, items: Tensor | int | None, warn: Callable[[str], None]
) -> tuple[Any, Tensor | None]:
    """Puts ``term`` (Eq. 10 times its weight) on a model's output; returns the output and the mean task loss.

    Of the outputs ``loss`` alone contains the term; see :mod:`hycam.tuners.hycam.carrier` for the others.

    With gradient accumulation the trainers divide a micro-batch's summed loss by ``items``
    (``num_items_in_batch``, the labelled tokens of the whole batch). The term is weighted likewise by the share of them
    that this micro-batch holds, so that the terms of a batch add up to their average.

    Args:
        outputs: what the model returned, a tuple or with names.
        term: None where there is no router, or where it has no weight.
        scored: the labels in the loss, -100 where there is none; None without labels.
        items: see above; None where the loss is the micro-batch's mean.
        warn: called with a message for the user where the term cannot act.
    """
    is_tuple = isinstance(outputs, tuple)
    named = dict(enumerate(outputs)) if is_tuple else outputs
    loss = None if scored is None else named.get(0 if is_tuple else "loss")
    if loss is not None and loss.dim():  # a tuple without a loss begins with the logits
        loss = None
    task_loss, share = None, None
    if loss is not None:
        task_loss = loss.detach()
        if items is not None and scored is not None:
            labelled = torch.ne(scored, -100).sum().to(loss.device)
            share = labelled / items
            task_loss = task_loss * items / labelled.clamp(min=1)
    if term is None:
        return outputs, task_loss
    carried = carry(term, share, loss, scored, named, warn)
    if is_tuple:
        return tuple(carried.get(place, value) for place, value in named.items()), task_loss
    for name, tensor in carried.items():
        outputs[name] = tensor
    return outputs, task_loss


def scored_labels(labels: Tensor | None, shift_labels: Tensor | None, task_type: str | None) -> Tensor | None:
    """The labels in a model's loss: those of the next tokens, or, for a classifier, all of them."""
    if shift_labels is not None or labels is None:
        return shift_labels
    return labels if task_type in ("SEQ_CLS", "TOKEN_CLS") else labels[..., 1:]
