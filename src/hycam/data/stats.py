"""Rows and tokens of a task, counted as in Table 1 of the paper.

That is: the prompt up to ``### Response:`` and right after it the response, without a line end, tokenised as one text,
plus one token (the start token of Llama-3's tokenizer). With that tokenizer, the totals of Auto-CoT and CodeAlpaca, the
two datasets whose exact rows are known, are the paper's to the token. Training has a line end before the response,
tokenises prompt and response separately, and adds a start and an end token: one or two tokens a row more.
"""

from __future__ import annotations

from dataclasses import dataclass

import datasets
from transformers import PreTrainedTokenizerBase

from hycam.data.chat import Turn
from hycam.data.encode import warn_of_bad_rows
from hycam.data.prompts import Form, check_prompt, rendered
from hycam.data.sources import Task
from hycam.data.tokens import PLAIN

_ROWS_AT_ONCE = 1000  # enough to keep all cores of the tokenizer busy


@dataclass(frozen=True)
class Statistics:
    """One line of the table.

    ``domain`` and ``source`` are the task's. ``paper_samples`` and ``paper_tokens`` are as printed in Table 1 of the
    paper, or None for other tasks.
    """

    task: str
    samples: int
    total_tokens: int
    mean_tokens: float
    domain: str
    source: str
    paper_samples: int | None
    paper_tokens: int | None


def statistics(
    task: Task,
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    style: str = "paper",
    skip_bad_rows: bool = False,
) -> Statistics:
    """Counts the rows and the tokens of a task.

    Args:
        task: whose rows these are.
        dataset: the rows as ``load_task`` gives them. The paper also counts those without a response (``keep_empty``).
        tokenizer: counts the tokens.
        style: of the prompt.
        skip_bad_rows: skip and log rows that cannot be rendered.

    Raises:
        HycamError: the prompt needs a chat template and the tokenizer has none; or a row cannot be rendered.
    """
    check_prompt(style, tokenizer)
    form = Form(style, turns="last", skip_bad_rows=skip_bad_rows)
    total = done = 0
    bad: dict[int, str] = {}
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        examples, refused = rendered(enumerate(table.to_pylist(), done), tokenizer, form)
        total += _tokens(list(examples.values()), tokenizer) if examples else 0
        bad |= refused
        done += len(table)
    warn_of_bad_rows(task.name, bad)
    samples = len(dataset) - len(bad)
    return Statistics(
        task=task.name,
        samples=samples,
        total_tokens=total,
        mean_tokens=total / samples if samples else 0.0,
        domain=task.domain,
        source=task.describe(),
        paper_samples=task.paper.samples if task.paper else None,
        paper_tokens=task.paper.tokens if task.paper else None,
    )


def _tokens(examples: list[list[Turn]], tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens of each answer together with the text before it."""
    texts = [turn.before + turn.answer for turns in examples for turn in turns]
    encoded = tokenizer(texts, add_special_tokens=False, **PLAIN)
    return sum(map(len, encoded["input_ids"])) + len(texts)
