"""A model on the rows of several tasks: perplexity of the responses, BLEU-4 and ROUGE-L of its own answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.errors import HycamError
from hycam.evaluation.generation import generate
from hycam.evaluation.perplexity import NLL, across_tasks, response_nll
from hycam.evaluation.result import Evaluation
from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l
from hycam.evaluation.tokens import Tokens, tokens_of

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("perplexity" or "generation"), rows done and rows in all."""


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

    Tasks are taken one after the other, so that a task's figures do not depend on which others stand beside it.

    Args:
        model: any causal language model, with or without an adapter.
        tokenizer: the one that made the rows.
        parts: the rows of each task, with the columns that ``hycam.data.encode`` makes: ``row``, ``prompt``,
            ``response``, ``input_ids``, ``labels`` and ``prompt_length`` (of the tokens that an answer continues).
        max_new_tokens: most tokens in an answer.
        batch_size: most rows in a batch.
        generate_rows: answer the first so many rows of each task; None for all, 0 for none.
        progress: see ``Progress``.

    Raises:
        HycamError: there is no task, or one of them has no response to score.
    """
    if not parts:
        raise HycamError("There is nothing to evaluate: no task was given.")
    scored = _counted(progress, "perplexity", sum(len(rows) for rows in parts.values()))
    nlls = {name: response_nll(model, tokenizer, rows, batch_size, progress=scored) for name, rows in parts.items()}
    asked = {
        name: rows.select(range(len(rows) if generate_rows is None else min(generate_rows, len(rows))))
        for name, rows in parts.items()
    }
    answered = _counted(progress, "generation", sum(len(rows) for rows in asked.values()))
    answers = {
        name: generate(model, tokenizer, _prompts(rows), max_new_tokens, batch_size, answered, _end(rows))
        for name, rows in asked.items()
    }
    return _assemble(parts, nlls, answers, max_new_tokens)


def _prompts(rows: Dataset) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows["input_ids"], rows["prompt_length"], strict=True)]


def _end(rows: Dataset) -> int | None:
    """The token that every row's response ends with."""
    return rows[0]["input_ids"][-1] if len(rows) else None


def _counted(progress: Progress | None, what: str, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def add(rows: int) -> None:
        nonlocal done
        done += rows
        progress(what, done, total)

    return add


def _assemble(
    parts: Mapping[str, Dataset], nlls: Mapping[str, NLL], answers: Mapping[str, list[str]], max_new_tokens: int
) -> Evaluation:
    references = {name: list(rows["response"])[: len(answers[name])] for name, rows in parts.items()}
    tokens = {name: tokens_of(rows["response"]) for name, rows in parts.items()}
    bleu = {name: _bleu4(name, answers[name], references[name], tokens[name]) for name in parts}
    rouge = {name: rouge_l(answers[name], references[name], tokens[name]) for name in parts}
    rouge_of = {name: _rouge_l(name, rouge[name], references[name], tokens[name]) for name in parts}
    answered = [name for name in parts if answers[name]]
    shared = {bleu_signature(tokens[name]) for name in answered}
    is_one_corpus = len(shared) == 1  # n-grams of words and of characters are not counted together
    together = across_tasks(nlls)
    return Evaluation(
        tasks={
            name: {
                "perplexity": nlls[name].perplexity,
                "nll": nlls[name].per_token,
                "tokens": int(nlls[name].tokens.sum()),
                "rows": len(rows),
                "bleu4": bleu[name],
                "rougeL": rouge_of[name],
                "generated_rows": len(answers[name]),
                "bleu_signature": bleu_signature(tokens[name]) if answers[name] else None,
                "rouge_tokens": tokens[name].rouge if answers[name] else None,
            }
            for name, rows in parts.items()
        },
        macro={
            "perplexity": together.perplexity,
            "perplexity_mean": together.perplexity_mean,
            "nll": together.nll,
            "bleu4": _mean(bleu.values()),
            "rougeL": _mean(rouge_of.values()),
        },
        pooled={
            "perplexity": together.perplexity_pooled,
            "nll": together.nll_pooled,
            "bleu4": _pooled(answers, references, tokens[answered[0]]) if is_one_corpus else None,
            "rougeL": _mean(chain.from_iterable(rouge[name] for name in answered if rouge_of[name] is not None)),
        },
        bleu_signature=shared.pop() if is_one_corpus else None,
        max_new_tokens=max_new_tokens,
        predictions=[
            entry
            for name, rows in parts.items()
            for entry in _entries(name, rows, nlls[name], answers[name], rouge[name].tolist())
        ],
    )


def _bleu4(name: str, answers: Sequence[str], references: Sequence[str], tokens: Tokens) -> float | None:
    """BLEU-4 of a task; None where nothing was answered, or no answer could have any."""
    if not answers:
        return None
    if bleu4(references, references, tokens) == 0:
        _log.warning("%s has no BLEU-4: no reference has four words, so that no answer could score.", name)
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


def _pooled(
    answers: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[str]], tokens: Tokens
) -> float | None:
    every_answer, every_reference = (list(chain.from_iterable(texts.values())) for texts in (answers, references))
    if bleu4(every_reference, every_reference, tokens) == 0:
        return None
    return bleu4(every_answer, every_reference, tokens)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the figures that there are, or None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _entries(name: str, rows: Dataset, nll: NLL, answers: list[str], rouge: list[float]) -> list[dict[str, Any]]:
    keys = ("row", "prompt", "prediction", "reference", "rougeL", "nll", "tokens")
    # zip_longest: rows that were not generated come last and have no prediction and no ROUGE-L.
    columns = zip_longest(
        nll.rows, rows["prompt"], answers, rows["response"], rouge, nll.nll.tolist(), nll.tokens.tolist()
    )
    return [{"task": name, **dict(zip(keys, values, strict=True))} for values in columns]
