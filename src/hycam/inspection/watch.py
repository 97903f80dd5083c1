"""Runs a backbone to observe its modules' inputs and outputs, and shows its tokens as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.attention import find_attention_modules
from hycam.errors import HycamError
from hycam.evaluation.batching import batches_by_length, pad, padding_id, padding_mask
from hycam.labelled import IGNORED, head_at
from hycam.ops import Modulation
from hycam.tuners.hycam.layer import HyCAMLayer

_BATCH_SIZE = 8
_BATCH_TOKENS = 2048
_UNREADABLE = "\ufffd"  # a decoder's output for a part of a character


def attention_at(model: PreTrainedModel, layer: int) -> nn.Module:
    """The attention module of a layer, counted from 0; its wrapper if HyCAM adapts it.

    Raises:
        HycamError: there is no such layer.
    """
    names = find_attention_modules(model)
    if not 0 <= layer < len(names):
        raise HycamError(f"There is no layer {layer}: the backbone has layers 0 to {len(names) - 1}.")
    return model.get_submodule(names[layer])


def middle_layer(model: PreTrainedModel) -> int:
    """The layer that is shown by default."""
    return len(find_attention_modules(model)) // 2


def active_modulation(module: nn.Module) -> Modulation | None:
    """The weights of an attention module's active HyCAM adapter, if any."""
    if not isinstance(module, HyCAMLayer) or not module.active_adapters:
        return None
    adapter = module.active_adapters[0]
    config = module.hycam_config.get(adapter)
    return None if config is None else module.modulation(adapter, config)


@contextmanager
def watching_inputs(layers: Sequence[HyCAMLayer], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls ``keep`` with the index of a layer and the ``h`` that it receives, ``(batch, seq, d)``."""

    def note(place: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, HyCAMLayer)
        keep(place, layer.hidden_states(args, kwargs))

    hooks = [
        layer.register_forward_pre_hook(partial(note, place), with_kwargs=True) for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]], padding: int) -> None:
    """One forward over rows of token ids, padded on the right; only one position's logits are computed."""
    first = torch.zeros(1, dtype=torch.int64)
    with head_at(model, first, first):
        model(
            input_ids=pad(rows, padding, "right").to(model.device),
            attention_mask=padding_mask(rows, "right").to(model.device),
            use_cache=False,
        )


def response_batches(
    dataset: Dataset, rows: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Callable[[PreTrainedModel], None], Tensor]]:
    """Batches of the first ``rows`` rows: a function that runs a model on the batch (see :func:`run_rows`), and whether
    each position is part of a response, ``[batch, seq]``."""
    taken = dataset.select(range(min(rows, len(dataset))))
    padding = padding_id(tokenizer)
    for indices in batches_by_length([len(ids) for ids in taken["input_ids"]], _BATCH_SIZE, _BATCH_TOKENS):
        batch = taken[indices]
        is_response = pad(batch["labels"], IGNORED, "right") != IGNORED
        yield partial(run_rows, rows=batch["input_ids"], padding=padding), is_response


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token as text, with visible blanks (a space as a middle dot); parts of characters by the token's name."""
    texts = []
    for number in ids:
        text = str(tokenizer.decode([number]))
        if not text or _UNREADABLE in text:
            text = str(tokenizer.convert_ids_to_tokens(number))
        texts.append(text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r").replace(" ", "·"))
    return texts
