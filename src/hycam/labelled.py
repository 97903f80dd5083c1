"""The language-model head at the labelled positions only.

Most tokens of an instruction row belong to the prompt and carry no loss. Their logits would be the largest tensor of a
step (a vocabulary is some eighty times as wide as a small model's hidden state) and are never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

IGNORED = -100


def labelled_positions(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a causal model predicts a labelled token, and which: ``(row, position, target)``, each ``[n]``.

    Args:
        labels: ``(batch, seq)``, -100 where nothing is scored. The token at position t + 1 is predicted at t; a label
            on a row's first token has nothing before it and is skipped.
    """
    targets = labels[:, 1:]
    row, position = (targets != IGNORED).nonzero(as_tuple=True)
    return row, position, targets[row, position]


@contextmanager
def head_at(model: PreTrainedModel, row: Tensor, position: Tensor) -> Iterator[None]:
    """Passes only the ``n`` chosen hidden states to the output embedding, as one row: ``(1, n, d)``.

    Everything after it (scaling, soft-capping) is the model's own. ``logits_to_keep`` would keep the same positions of
    every row, and not all architectures have it.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][row, position].unsqueeze(0), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
