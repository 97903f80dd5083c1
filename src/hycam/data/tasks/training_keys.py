"""Columns that change what a row trains, and that nothing reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hycam.data.source_row import SourceRow
from hycam.data.tasks.messages import is_absent

_WEIGHTS = ("weight", "weights", "sample_weight", "loss_weight", "train", "training")  # 1 is what a row counts anyway
_LABELS = ("label", "labels")  # a verdict on the answer, or tokens; as text it is one more note
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # or whether there is one, which the answer shows
_OTHERS = (
    *("mask", "loss_mask", "train_mask", "completion_mask", "assistant_masks"),
    *("chosen", "rejected", "rejected_response", "kto_tag"),
    *("image", "images", "video", "videos", "audio", "audios"),
    *("tools", "functions", "chat_template_kwargs", *_THOUGHTS),
)


def check_training_keys(row: SourceRow, read: Collection[str], ignore: Collection[str]) -> None:
    """Raises HycamError where a column beside those that are ``read`` or to be ignored changes what the row trains."""
    for column, value in row.fields.items():
        if column in read or column in ignore or is_absent(value) or not _says_something(column, value):
            continue
        named = f"name it beside messages (columns: {{tools: {column}}}), " if column in ("tools", "functions") else ""
        raise row.error(
            f'"{column}" changes what a row trains, and nothing reads it: {named}remove it, or have the recipe pass '
            f"over it (ignore: [{column}])"
        )


def _says_something(column: str, value: Any) -> bool:
    if column in _WEIGHTS:
        return value not in (1, "1", "1.0", "true", "True")
    if column in _LABELS:
        return isinstance(value, bool) or (isinstance(value, list) and isinstance(value[0], int))
    if column in _THOUGHTS and (isinstance(value, bool) or value in ("on", "off")):
        return False
    return column in _OTHERS
