"""Retention of one model: the tasks that a recipe names and the divergence, beside the backbone's own figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.console import Reports
from hycam.data.tokens import encode_prompts
from hycam.evaluation.retention.base import Base
from hycam.evaluation.retention.continued import AS_IT_IS, Continued
from hycam.evaluation.retention.kl import divergence
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.evaluation.retention.replies import replies
from hycam.evaluation.retention.score import Choices, Likelihoods, Scores, likelihoods
from hycam.evaluation.retention.tasks import RETENTION_TASKS, Item, excluded

_log = logging.getLogger(__name__)
_DIGITS = 6  # of a row's bits in a result file


class Retention:
    """Scores a model and its backbone on the same rows, and takes KL(base || adapted).

    What the backbone gives is taken once, so that a model which goes on training can be measured again and again.

    Args:
        model: the adapted model.
        tokenizer: its own.
        base: gives the backbone (see :func:`hycam.evaluation.retention.base.base_of`); None where ``model`` is the
            backbone, which is then scored once.
        recipe: what is measured.
        reporter: shows how far it has come.
        tuned: the tasks that were trained, by name; a task that one of them bears on is left out, and this is said.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        base: Base | None,
        recipe: RetentionRecipe,
        reporter: Reports,
        tuned: Iterable[str] = (),
    ) -> None:
        self._model, self._tokenizer, self._base = model, tokenizer, base
        self._recipe, self._reporter = recipe, reporter
        trained = set(tuned)
        self._excluded = {name: reason for name in recipe.tasks if (reason := excluded(name, trained)) is not None}
        for name, reason in self._excluded.items():
            _log.warning("retention: %s is left out: %s.", name, reason)
        self._of_base: dict[str, Scores] = {}
        self._replied: list[Continued] = []

    def measure(self) -> dict[str, Any]:
        """What :mod:`hycam.evaluation.retention` describes, of the model as it now is.

        Raises:
            HycamError: the rows cannot be had.
        """
        wanted = [name for name in self._recipe.tasks if name not in self._excluded]
        return {"tasks": {name: self._task(name) for name in wanted}, "kl": self._kl(), "excluded": self._excluded}

    def _task(self, name: str) -> dict[str, Any]:
        task = RETENTION_TASKS[name]
        items = task.items(self._recipe.rows)
        choices = Choices(task, items, self._tokenizer, self._recipe.accuracy)
        is_first = self._base is not None and name not in self._of_base
        count = self._counted(name, len(choices.rows) * (2 if is_first else 1))
        ours = choices.scores(self._likelihoods(self._model, choices, count))
        if self._base is None:
            return _figures(items, ours, ours)
        if is_first:
            with self._base() as backbone:
                self._of_base[name] = choices.scores(self._likelihoods(backbone, choices, count))
        return _figures(items, ours, self._of_base[name])

    def _kl(self) -> dict[str, Any]:
        found = {}
        if self._recipe.kl_texts:
            passages = [item.text for item in RETENTION_TASKS["lambada"].items(self._recipe.kl_texts)]
            ids = encode_prompts(passages, self._tokenizer, AS_IT_IS)
            found["lambada"] = self._divergence("KL on LAMBADA", [Continued(each, 1) for each in ids])
        if self._recipe.kl_replies:
            self._replied = self._replied or self._replies()
            found["replies"] = self._divergence("KL on replies", self._replied)
        return found

    def _likelihoods(self, model: PreTrainedModel, choices: Choices, count: Callable[[int], None]) -> Likelihoods:
        return likelihoods(model, self._tokenizer, choices.rows, self._recipe.batch_size, count)

    def _replies(self) -> list[Continued]:
        count, size = self._recipe.kl_replies, self._recipe.batch_size
        progress = self._counted("the base's replies", count)
        if self._base is None:
            return replies(self._model, self._tokenizer, count, size, progress)
        with self._base() as backbone:
            return replies(backbone, self._tokenizer, count, size, progress)

    def _divergence(self, what: str, rows: list[Continued]) -> dict[str, Any]:
        progress = self._counted(what, len(rows))
        return asdict(divergence(self._model, self._base, self._tokenizer, rows, self._recipe.batch_size, progress))

    def _counted(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def add(rows: int) -> None:
            nonlocal done
            done += rows
            self._reporter.update(f"retention, {what}", done, total)

        return add


def _figures(items: list[Item], ours: Scores, theirs: Scores) -> dict[str, Any]:
    return {
        "rows": len(items),
        "bits_per_byte": ours.per_byte,
        "base_bits_per_byte": theirs.per_byte,
        "difference": float(np.mean((ours.bits - theirs.bits) / ours.bytes)),
        "accuracy": ours.accuracy,
        "base_accuracy": theirs.accuracy,
        "items": {
            "row": [item.row for item in items],
            "bits": ours.bits.round(_DIGITS).tolist(),
            "base_bits": theirs.bits.round(_DIGITS).tolist(),
            "bytes": ours.bytes.tolist(),
            "correct": None if ours.correct is None else ours.correct.tolist(),
            "base_correct": None if theirs.correct is None else theirs.correct.tolist(),
        },
    }
