"""Retention of one model: bits per byte, accuracy and divergence, next to the backbone's own figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.console import Reports, counted
from hycam.data.chat import end_token
from hycam.data.prompts import render
from hycam.data.tokens import encode_prompts
from hycam.evaluation.generation import generate
from hycam.evaluation.retention.recipe import CHAT_PROMPTS, RetentionRecipe
from hycam.evaluation.retention.score import (
    AS_IT_IS,
    Base,
    Continued,
    Scores,
    choices_of,
    divergence,
    joined,
    likelihoods,
    scores_of,
)
from hycam.evaluation.retention.tasks import RETENTION_TASKS, Item, excluded
from hycam.tuners.base import Tuner

_log = logging.getLogger(__name__)

_DIGITS = 6  # of a row's bits in a result file
_REPLY_TOKENS = 64
_PLAIN = "{instruction}\n\n"  # the prompt of a backbone that was not tuned for chat


def base_of(model: PreTrainedModel, load: Callable[[], PreTrainedModel]) -> Base:
    """The backbone: the adapted model with its adapter disabled if that restores it exactly, else loaded anew.

    Args:
        model: a PEFT model, or a fully fine-tuned one.
        load: loads the backbone; called at most once, when it is first needed. The backbone then stays in memory beside
            ``model``: half of what full training takes, with its gradients and the optimizer's two moments.
    """
    if isinstance(model, PeftModel) and _restores(model):

        @contextmanager
        def disabled() -> Iterator[PreTrainedModel]:
            with model.disable_adapter():
                yield cast(PreTrainedModel, model)

        return disabled
    loaded = cache(load)
    return lambda: nullcontext(loaded())


def _restores(model: PeftModel) -> bool:
    """Our adapters and plain LoRA do; trained biases, or initialisations that change the backbone, do not."""
    return isinstance(model.base_model, Tuner) or all(map(_is_plain_lora, model.peft_config.values()))


def _is_plain_lora(config: PeftConfig) -> bool:
    return (
        isinstance(config, LoraConfig)
        and config.bias == "none"
        and isinstance(config.init_lora_weights, bool)
        and config.layer_replication is None
    )


def replies(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[Continued]:
    """The first ``count`` chat prompts, each with the backbone's greedy reply of at most 64 tokens behind it.

    The tokenizer's chat template, with a fixed date, writes the prompt; without a template it is the question and a
    blank line.
    """
    style = "chat" if tokenizer.chat_template else _PLAIN
    prompts = [render({"instruction": prompt, "input": ""}, style, tokenizer) for prompt in CHAT_PROMPTS[:count]]
    ids = encode_prompts(prompts, tokenizer, style)
    end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, style)))
    answers = generate(backbone, tokenizer, ids, _REPLY_TOKENS, batch_size, progress, end)
    return joined(prompts, answers, tokenizer, style)


class Retention:
    """Scores a model and its backbone on the same rows, and takes KL(base || adapted).

    The backbone is measured only once, however often a model in training is.

    Args:
        model: the adapted model.
        tokenizer: its own.
        base: gives the backbone (see :func:`base_of`); None where ``model`` is the backbone, which is then scored once.
        recipe: what is measured.
        reporter: shows progress.
        tuned: names of the trained tasks; a retention task that overlaps with one is skipped, with a warning.
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
            _log.warning("retention: %s is skipped: %s.", name, reason)
        self._of_base: dict[str, Scores] = {}
        self._replied: list[Continued] = []

    def measure(self) -> dict[str, Any]:
        """The figures that :mod:`hycam.evaluation.retention` describes, of the model as it is now.

        Raises:
            HycamError: the rows cannot be fetched.
        """
        wanted = [name for name in self._recipe.tasks if name not in self._excluded]
        return {"tasks": {name: self._task(name) for name in wanted}, "kl": self._kl(), "excluded": self._excluded}

    def _task(self, name: str) -> dict[str, Any]:
        task = RETENTION_TASKS[name]
        items = task.items(self._recipe.rows)
        if not self._recipe.accuracy:
            items = [replace(item, choices=(item.choices[item.gold],), gold=0) for item in items]
        rows = choices_of(items, self._tokenizer)
        is_first = self._base is not None and name not in self._of_base
        count = self._counted(name, len(rows) * (2 if is_first else 1))

        def scored(model: PreTrainedModel) -> Scores:
            return scores_of(task, items, likelihoods(model, self._tokenizer, rows, self._recipe.batch_size, count))

        ours = scored(self._model)
        if self._base is None:
            return _figures(items, ours, ours)
        if is_first:
            with self._base() as backbone:
                self._of_base[name] = scored(backbone)
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

    def _replies(self) -> list[Continued]:
        count = self._recipe.kl_replies
        progress = self._counted("the base's replies", count)
        with nullcontext(self._model) if self._base is None else self._base() as backbone:
            return replies(backbone, self._tokenizer, count, self._recipe.batch_size, progress)

    def _divergence(self, what: str, rows: list[Continued]) -> dict[str, Any]:
        progress = self._counted(what, len(rows))
        return divergence(self._model, self._base, self._tokenizer, rows, self._recipe.batch_size, progress)

    def _counted(self, what: str, total: int) -> Callable[[int], None]:
        return counted(self._reporter.update, f"retention, {what}", total)


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
