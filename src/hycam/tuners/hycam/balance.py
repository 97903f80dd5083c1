"""The load-balancing term of the objective: Eq. 10 over one micro-batch, put where a trainer will find it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hycam.ops import balance_loss, routing_sums

NO_LABELS = (
    "HyCAM's balance loss (Eq. 10) is not added on this path: the training forward got no `labels`, so the model "
    "computes no loss to add it to. Label smoothing and `compute_loss_func` take the labels away; leave the loss to "
    "the model, or set `balance_weight=0` if that is what you want."
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


def summed_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all processes, differentiable; ``tensor`` itself where there is one process.

    Eq. 10 is a product of means, so the means have to be those of the whole micro-batch over all ranks.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(tensor)


def routing_statistics(
    records: dict[str, tuple[Tensor, Tensor]], attention_mask: Tensor | None, scope: str, counted: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 10 and the mean routing of every layer, from ``{layer: (p, logits)}`` with shapes ``(batch, seq, K)``.

    Where the tokens of this process are not ``counted``, they are those of the other processes alone.
    """
    first = next(iter(records.values()))[0]
    mask = _token_mask(attention_mask, first)
    device = first.device  # where a model is split over devices, the sums (a few numbers a layer) come together here
    sums = torch.stack(
        [
            routing_sums(p, logits, None if mask is None else mask.to(p.device)).to(device)
            for p, logits in records.values()
        ]
    )
    count = sums.new_tensor(first.shape[0] * first.shape[1]) if mask is None else mask.sum().to(sums)
    if not counted:
        sums, count = 0.0 * sums, 0.0 * count
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
    outputs: Any, term: Tensor, labels: Tensor | None, shift_labels: Tensor | None, items: Tensor | int | None
) -> tuple[Any, Tensor | None]:
    """Adds ``term`` (Eq. 10 times its weight) to a model's output; returns the output and the mean task loss.

    ``transformers.Trainer`` reads ``outputs.loss``. TRL's ``SFTTrainer`` ignores it and sums ``outputs.log_probs`` over
    the labelled positions, so there the term is spread over them: subtracted from each, it comes out once per token
    and is divided by the number of tokens with the rest.

    With gradient accumulation the trainers divide a micro-batch's summed loss by ``items``
    (``num_items_in_batch``, the labelled tokens of the whole batch). The term is weighted likewise by the share of them
    that this micro-batch holds, so that the terms of a batch add up to their average.
    """
    scored = shift_labels if shift_labels is not None else None if labels is None else labels[..., 1:]
    is_tuple = isinstance(outputs, tuple)
    loss = (outputs[0] if labels is not None else None) if is_tuple else outputs.get("loss")
    if loss is None or scored is None:
        return outputs, None
    task_loss = loss.detach()
    term = term.to(loss.device)
    if items is None:
        total = loss + term
    else:
        labelled = (scored != -100).sum().to(loss.device)
        total = loss + term * (labelled / items)
        task_loss = task_loss * items / labelled.clamp(min=1)
    if is_tuple:
        return (total, *outputs[1:]), task_loss
    outputs["loss"] = total
    log_probs = outputs.get("log_probs")
    if log_probs is not None:
        positions = outputs.get("label_mask")
        positions = scored != -100 if positions is None else positions
        outputs["log_probs"] = log_probs - positions.to(log_probs) * term.to(log_probs)
    return outputs, task_loss


def last_stats(model: nn.Module) -> TrainingStats:
    """Task loss, balance loss and mean routing per layer of the last training forward of a HyCAM model.

    Args:
        model: the PEFT model, as it is or wrapped (DistributedDataParallel, ``torch.compile`` ...).

    Raises:
        ValueError: there is no HyCAM adapter in the model.
    """
    from hycam.tuners.hycam.model import HyCAMModel

    for module in model.modules():
        if isinstance(module, HyCAMModel):
            return module.last_stats
    raise ValueError(f"{type(model).__name__} has no HyCAM adapter, so there are no routing statistics.")
