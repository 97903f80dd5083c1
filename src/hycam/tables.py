"""What a model looks up by number, its tokens and its positions: an index beyond a table ends the process on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from hycam.errors import HycamError

_BEHIND = 2  # some keep so many rows for padding beside those for positions


@dataclass(frozen=True)
class Tables:
    """The sizes of a model's tables.

    Attributes:
        tokens: how many ids have an embedding, counted from 0.
        positions: how many tokens a row may have; None where positions are computed and not looked up.
    """

    tokens: int
    positions: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Tables:
        """Those of a model, which needs no weights, with or without an adapter."""
        config = model.config.get_text_config()
        tables = model.get_input_embeddings().modules()
        tokens = next(int(cast(int, one.num_embeddings)) for one in tables if hasattr(one, "num_embeddings"))
        if fixed := getattr(config, "max_seq_len", None):  # MPT's, whose table is made in each forward
            return cls(tokens, fixed)
        most = getattr(config, "max_position_embeddings", None)
        is_looked_up = most is not None and any(most <= size <= most + _BEHIND for size in _sizes(model))
        return cls(tokens, most if is_looked_up else None)

    def check(self, rows: Sequence[Sequence[int]], new: int = 0) -> None:
        """Checks token ids before they are looked up.

        Args:
            rows: token ids.
            new: most tokens that are generated behind each; the last of them is not looked up.

        Raises:
            HycamError: an id or a position is beyond its table.
        """
        for number, ids in enumerate(rows, 1):
            if len(ids) and max(ids) >= self.tokens:
                raise HycamError(
                    f"Row {number} of {len(rows)} has the token id {max(ids)}, and the backbone has embeddings for 0 "
                    f"to {self.tokens - 1}: its tokenizer has tokens that it has not. Take that token out of the text, "
                    "or take the tokenizer that belongs to the backbone."
                )
            length = len(ids) + max(new - 1, 0)
            if self.positions is not None and length > self.positions:
                behind = f" and up to {new} more are generated" if new else ""
                lower = ", or lower max_new_tokens" if new else ""
                raise HycamError(
                    f"Row {number} of {len(rows)} has {len(ids):,} tokens{behind}, and the backbone has "
                    f"{self.positions:,} positions, each with an embedding of its own. Shorten the text{lower}."
                )


def _sizes(model: PreTrainedModel) -> Iterator[int]:
    """The lengths of the tables that are not of tokens: embeddings, and what is kept of computed ones or of masks."""
    tokens = set(model.get_input_embeddings().modules())  # more than one where an adapter is on it
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module not in tokens:
            yield module.num_embeddings
        for buffer in module.buffers(recurse=False):
            if buffer.dim() > 1:
                yield from buffer.shape
