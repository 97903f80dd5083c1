"""One pass over the validation rows between two steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.errors import Diverged
from hycam.evaluation.perplexity import across_tasks, response_nll


@torch.compiler.set_stance("force_eager")  # compiling validation would cost more than it saves
def validation_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, datasets.Dataset],
    batch_size: int,
    step: int,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """``eval_loss`` (mean over tasks) and ``eval_loss_TASK`` (per token), with the batches divided among processes.

    Args:
        model: in training mode, which is restored.
        tokenizer: pads.
        tasks: the rows of each.
        batch_size: most rows in a batch.
        step: the step before it.
        progress: called after each batch with the rows done and the rows in all.

    Raises:
        Diverged: the loss of a task is not finite.
    """
    total, done = sum(map(len, tasks.values())), 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    nlls = {
        name: response_nll(model, tokenizer, rows, batch_size, progress=count, shared=True)
        for name, rows in tasks.items()
    }
    found = {"eval_loss": across_tasks(nlls)[0]["nll"]}
    found |= {f"eval_loss_{name}": nll.per_token for name, nll in nlls.items()}
    if not math.isfinite(found["eval_loss"]):
        broken = ", ".join(name for name, nll in nlls.items() if not math.isfinite(nll.per_token))
        raise Diverged(step, f"the validation loss of {broken} after step {step} is not finite")
    return found


@contextmanager
def same_randomness() -> Iterator[None]:
    """Restores all random states at its end."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
