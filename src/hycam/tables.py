"""The sizes of a model's embedding tables: on a GPU an index beyond the end of one kills the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from hycam.errors import HycamError

_EXTRA = 2  # rows that some architectures keep for padding, besides one for each position


@dataclass(frozen=True)
class Tables:
    """How far the token ids and the positions of a model reach.

    Attributes:
        tokens: how many ids have an embedding, counted from 0.
        positions: how many tokens a row may have; None where positions are computed instead of looked up.
    """

    tokens: int
    positions: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Tables:
        """Of a model with or without an adapter, which may be empty (on the meta device)."""
        config = model.config.get_text_config()
        tables = model.get_input_embeddings().modules()
        tokens = next(int(cast(int, one.num_embeddings)) for one in tables if hasattr(one, "num_embeddings"))
        if fixed := getattr(config, "max_seq_len", None):  # MPT makes its table in each forward
            return cls(tokens, fixed)
        most = getattr(config, "max_position_embeddings", None)
        is_looked_up = most is not None and any(most <= size <= most + _EXTRA for size in _sizes(model))
        return cls(tokens, most if is_looked_up else None)

    def check(self, rows: Sequence[Sequence[int]], new: int = 0) -> None:
        """Checks token ids before they are looked up.

        Args:
            rows: token ids.
            new: most tokens to generate after each row; the last of them is never looked up.

        Raises:
            HycamError: an id or a position is beyond its table.
        """
        for number, ids in enumerate(rows, 1):
            if len(ids) and max(ids) >= self.tokens:
                raise HycamError(
                    f"Row {number} of {len(rows)} has the token id {max(ids)}, and the backbone has embeddings for 0 "
                    f"to {self.tokens - 1}: the tokenizer knows tokens that the backbone does not. Remove that token "
                    "from the text, or use the tokenizer that belongs to the backbone."
                )
            length = len(ids) + max(new - 1, 0)
            if self.positions is not None and length > self.positions:
                more = f" and up to {new} more are generated" if new else ""
                lower = ", or lower max_new_tokens" if new else ""
                raise HycamError(
                    f"Row {number} of {len(rows)} has {len(ids):,} tokens{more}, and the backbone has "
                    f"{self.positions:,} positions, each with an embedding of its own. Shorten the text{lower}."
                )


def _sizes(model: PreTrainedModel) -> Iterator[int]:
    """The lengths of all other tables: embeddings, and buffers such as precomputed positions or masks."""
    tokens = set(model.get_input_embeddings().modules())  # more than one where an adapter wraps it
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module not in tokens:
            yield module.num_embeddings
        for buffer in module.buffers(recurse=False):
            if buffer.dim() > 1:
                yield from buffer.shape
