"""Evaluation on several tasks: perplexity of the responses, BLEU-4 and ROUGE-L of the model's answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.console import counted
from hycam.errors import HycamError
from hycam.evaluation.generation import generate
from hycam.evaluation.perplexity import NLL, across_tasks, response_nll
from hycam.evaluation.result import Evaluation
from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l
from hycam.evaluation.tokens import Tokens, tokens_of

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the kind of work ("perplexity" or "generation"), rows done and rows in all."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Mapping[str, Dataset],
    max_new_tokens: int,
    batch_size: int,
    generate_rows: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Perplexity of every row's response, and BLEU-4 and ROUGE-L of greedy answers to the rows' prompts.

    Tasks are evaluated one by one, so that a task's figures do not depend on the others.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: the one that made the rows.
        parts: the rows of each task, with the columns that ``hycam.data.encode`` makes: ``row``, ``prompt``,
            ``response``, ``input_ids``, ``labels`` and ``prompt_length`` (how many tokens an answer continues).
        max_new_tokens: tokens in an answer, at most.
        batch_size: rows in a batch, at most.
        generate_rows: answer only the first rows of each task, at most this many; None for all.
        progress: see ``Progress``.

    Raises:
        HycamError: there is no task, or a task has no response to score.
    """
    if not parts:
        raise HycamError("There is nothing to evaluate: no task was given.")
    update = progress or (lambda *_: None)
    count = counted(update, "perplexity", sum(len(rows) for rows in parts.values()))
    nlls = {name: response_nll(model, tokenizer, rows, batch_size, progress=count) for name, rows in parts.items()}
    asked = {
        name: rows.select(range(len(rows) if generate_rows is None else min(generate_rows, len(rows))))
        for name, rows in parts.items()
    }
    count = counted(update, "generation", sum(len(rows) for rows in asked.values()))
    answers = {
        name: generate(model, tokenizer, _prompts(rows), max_new_tokens, batch_size, count, _end(rows))
        for name, rows in asked.items()
    }
    return _together(
        {name: _scored(name, rows, nlls[name], answers[name]) for name, rows in parts.items()}, max_new_tokens
    )


def _prompts(rows: Dataset) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows["input_ids"], rows["prompt_length"], strict=True)]


def _end(rows: Dataset) -> int | None:
    """The token that every row's response ends with."""
    return rows[0]["input_ids"][-1] if len(rows) else None


@dataclass(frozen=True)
class _Task:
    """One task: its likelihoods, and the answers to its first rows with their scores.

    ``rouge`` is ROUGE-L of each answer. ``bleu4`` and ``rouge_l`` are the task's own, None where it has none.
    """

    rows: Dataset
    nll: NLL
    answers: list[str]
    references: list[str]
    tokens: Tokens
    rouge: np.ndarray
    bleu4: float | None
    rouge_l: float | None

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "perplexity": self.nll.perplexity,
            "nll": self.nll.per_token,
            "tokens": int(self.nll.tokens.sum()),
            "rows": len(self.rows),
            "bleu4": self.bleu4,
            "rougeL": self.rouge_l,
            "generated_rows": len(self.answers),
            "bleu_signature": bleu_signature(self.tokens) if self.answers else None,
            "rouge_tokens": self.tokens.rouge if self.answers else None,
        }

    def predictions(self, name: str) -> list[dict[str, Any]]:
        keys = ("row", "prompt", "prediction", "reference", "rougeL", "nll", "tokens")
        # zip_longest: rows that were not generated come last and have no prediction and no ROUGE-L.
        columns = zip_longest(
            self.nll.rows, self.rows["prompt"], self.answers, self.rows["response"], self.rouge.tolist(),
            self.nll.nll.tolist(), self.nll.tokens.tolist(),
        )  # fmt: skip
        return [{"task": name, **dict(zip(keys, values, strict=True))} for values in columns]


def _scored(name: str, rows: Dataset, nll: NLL, answers: list[str]) -> _Task:
    references, tokens = list(rows["response"])[: len(answers)], tokens_of(rows["response"])
    rouge = rouge_l(answers, references, tokens)
    return _Task(
        rows,
        nll,
        answers,
        references,
        tokens,
        rouge,
        bleu4=_bleu4(name, answers, references, tokens),
        rouge_l=_rouge_l(name, rouge, references, tokens),
    )


def _bleu4(name: str, answers: Sequence[str], references: Sequence[str], tokens: Tokens) -> float | None:
    """BLEU-4 of a task; None where nothing was answered, or no answer could score."""
    if not answers:
        return None
    if bleu4(references, references, tokens) == 0:
        _log.warning("%s has no BLEU-4: no reference has four words, so no answer could score.", name)
        return None
    return bleu4(answers, references, tokens)


def _rouge_l(name: str, scores: np.ndarray, references: Sequence[str], tokens: Tokens) -> float | None:
    """ROUGE-L of a task; None where nothing was answered, or no reference has a word."""
    without = sum(not tokens.rouge_tokenizer.tokenize(text) for text in references)
    if without:
        what = (
            "it has no ROUGE-L" if without == len(references) else "these rows score 0 in ROUGE-L, whatever is answered"
        )
        _log.warning(
            "%s: %d of %d references have no word (%s), so %s.", name, without, len(references), tokens.rouge, what
        )
    return _mean(scores) if without < len(references) else None


def _together(tasks: Mapping[str, _Task], max_new_tokens: int) -> Evaluation:
    answered = [task for task in tasks.values() if task.answers]
    signatures = {bleu_signature(task.tokens) for task in answered}
    is_one_corpus = len(signatures) == 1  # n-grams of words and of characters cannot be pooled
    macro, pooled = across_tasks({name: task.nll for name, task in tasks.items()})
    return Evaluation(
        tasks={name: task.figures for name, task in tasks.items()},
        macro={
            **macro,
            "bleu4": _mean(task.bleu4 for task in tasks.values()),
            "rougeL": _mean(task.rouge_l for task in tasks.values()),
        },
        pooled={
            **pooled,
            "bleu4": _pooled_bleu4(answered) if is_one_corpus else None,
            "rougeL": _mean(chain.from_iterable(task.rouge for task in answered if task.rouge_l is not None)),
        },
        bleu_signature=signatures.pop() if is_one_corpus else None,
        max_new_tokens=max_new_tokens,
        predictions=[entry for name, task in tasks.items() for entry in task.predictions(name)],
    )


def _pooled_bleu4(tasks: Sequence[_Task]) -> float | None:
    """BLEU-4 of all answers as one corpus; None where no answer could score."""
    answers = [text for task in tasks for text in task.answers]
    references = [text for task in tasks for text in task.references]
    tokens = tasks[0].tokens
    return bleu4(answers, references, tokens) if bleu4(references, references, tokens) else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the figures that are not None, or None where all are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
