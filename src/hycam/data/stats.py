"""How large a task is in rows and tokens, counted as Table 1 of the paper counts.

That is: the prompt up to ``### Response:`` with the response right behind it, no line end between them, tokenised as
one text, and one token more (the one that Llama-3's tokenizer puts before a text). Under this rule and with that
tokenizer the totals of Auto-CoT and CodeAlpaca, the two datasets whose very rows are known, are the paper's to the
token. Training has a line end before the response, tokenises prompt and response apart and adds a start and an end
token, so it counts one or two tokens a row more.
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

_ROWS_AT_ONCE = 1000  # enough for the tokenizer to work on all cores; more would only need memory


@dataclass(frozen=True)
class Statistics:
    """One line of the table.

    ``domain`` and ``source`` are the task's own. ``paper_samples`` and ``paper_tokens`` are what Table 1 of the paper
    has, as printed; None where it has no such task.
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
        dataset: the rows as ``load_task`` gives them. The paper counts those without a response too (``keep_empty``).
        tokenizer: whose tokens are counted.
        style: of the prompt.
        skip_bad_rows: rows that cannot be put into that form are passed over and told, and not counted.

    Raises:
        HycamError: the prompt needs a chat template that the tokenizer does not have; or a row cannot be put into it.
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
    """Each answer with what stands before it; a row has one, a conversation several."""
    texts = [turn.before + turn.answer for turns in examples for turn in turns]
    encoded = tokenizer(texts, add_special_tokens=False, **PLAIN)
    return sum(map(len, encoded["input_ids"])) + len(texts)
