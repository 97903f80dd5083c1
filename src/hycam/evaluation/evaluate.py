"""A model on the rows of several tasks: perplexity of the responses, BLEU-4 and ROUGE-L of its own answers."""

from __future__ import annotations

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
    bleu = {name: _bleu4(answers[name], references[name]) for name in parts}
    rouge = {name: rouge_l(answers[name], references[name]) for name in parts}
    all_answers = list(chain.from_iterable(answers.values()))
    all_references = list(chain.from_iterable(references.values()))
    together = across_tasks(nlls)
    return Evaluation(
        tasks={
            name: {
                "perplexity": nlls[name].perplexity,
                "nll": nlls[name].per_token,
                "tokens": int(nlls[name].tokens.sum()),
                "rows": len(rows),
                "bleu4": bleu[name],
                "rougeL": _mean(rouge[name]),
                "generated_rows": len(answers[name]),
            }
            for name, rows in parts.items()
        },
        macro={
            "perplexity": together.perplexity,
            "perplexity_mean": together.perplexity_mean,
            "nll": together.nll,
            "bleu4": _mean(bleu.values()),
            "rougeL": _mean(map(_mean, rouge.values())),
        },
        pooled={
            "perplexity": together.perplexity_pooled,
            "nll": together.nll_pooled,
            "bleu4": _bleu4(all_answers, all_references),
            "rougeL": _mean(chain.from_iterable(rouge.values())),
        },
        bleu_signature=bleu_signature() if all_answers else None,
        max_new_tokens=max_new_tokens,
        predictions=[
            entry
            for name, rows in parts.items()
            for entry in _entries(name, rows, nlls[name], answers[name], rouge[name].tolist())
        ],
    )


def _bleu4(answers: Sequence[str], references: Sequence[str]) -> float | None:
    return bleu4(answers, references) if answers else None


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
