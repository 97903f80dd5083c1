"""The result of an evaluation, and the two files that hold it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hycam.errors import HycamError
from hycam.files import write_whole

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on several tasks.

    ``tasks[name]`` has ``perplexity``, ``nll`` (nats per token), ``tokens``, ``rows``, ``bleu4``, ``rougeL``,
    ``generated_rows``, ``bleu_signature`` and ``rouge_tokens`` (what the words are, see
    :class:`hycam.evaluation.tokens.Tokens`). ``macro`` weighs every task the same: ``perplexity`` is ``exp`` of the
    mean ``nll``, ``perplexity_mean`` the arithmetic mean of perplexities. ``pooled`` takes all rows as one corpus.
    ``bleu4`` and ``rougeL`` are None where nothing was generated, or no reference has what they count (four words for
    ``bleu4``); ``bleu_signature`` and the pooled ``bleu4`` also where the tasks have words of different kinds.
    ``predictions`` has one entry for each scored row: ``task``, ``row``, ``prompt``, ``prediction`` (None where not
    generated), ``reference``, ``rougeL``, ``nll`` (summed over the row's tokens) and ``tokens``.
    """

    tasks: dict[str, dict[str, Any]]
    macro: dict[str, float | None]
    pooled: dict[str, float | None]
    bleu_signature: str | None
    max_new_tokens: int
    predictions: list[dict[str, Any]]

    @property
    def metrics(self) -> dict[str, Any]:
        """Everything but the predictions, as ``metrics.json`` holds it: None for a figure that is not finite."""
        names = ("tasks", "macro", "pooled", "bleu_signature", "max_new_tokens")
        return _finite({name: getattr(self, name) for name in names})

    def write(self, folder: Path) -> None:
        """Writes ``metrics.json`` and ``predictions.jsonl``, each whole or not at all; the metrics last.

        A figure that is not finite (of a model that diverged) is written as ``null``.

        Raises:
            HycamError: the folder cannot be written or the disk is full; what was there before is still there.
        """
        lines = (json.dumps(_finite(entry), ensure_ascii=False, allow_nan=False) for entry in self.predictions)
        metrics = json.dumps(self.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(folder / PREDICTIONS_FILE, "".join(f"{line}\n" for line in lines))
        write_whole(folder / METRICS_FILE, f"{metrics}\n")


class Prediction(msgspec.Struct):
    """A line of ``predictions.jsonl``; fields that a later version adds are ignored."""

    task: str
    row: str
    prompt: str
    reference: str
    prediction: str | None
    nll: float | None
    rougeL: float | None
    tokens: int


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``predictions.jsonl``.

    Raises:
        HycamError: it cannot be read, or a line is not such an entry.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise HycamError(f"{path} cannot be read: {error}. Evaluate the run again.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                msgspec.json.decode(line, type=Prediction)
                found.append(msgspec.json.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HycamError(
                f"{path}:{number} is not the prediction of a row: {error}. Evaluate the run again."
            ) from error
    return found


def _finite(value: Any) -> Any:
    """``value`` with None for every number that is not finite, which JSON cannot express."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
