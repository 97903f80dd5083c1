"""How large a task is in rows and tokens, counted as Table 1 of the paper counts.

That is: the prompt up to ``### Response:`` with the response right behind it, no line end between them, tokenised as
one text, and one token more (the one that Llama-3's tokenizer puts before a text). Under this rule and with that
tokenizer the totals of Auto-CoT and CodeAlpaca, the two datasets whose very rows are known, are the paper's to the
token. Training has a line end before the response, tokenises prompt and response apart and adds a start and an end
token, so it counts one or two tokens a row more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from hycam.data.prompts import render_turns
from hycam.data.tasks import Task

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
    task: Task, dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, style: str = "paper"
) -> Statistics:
    """Counts the rows and the tokens of a task.

    Args:
        task: whose rows these are.
        dataset: the rows as ``load_task`` gives them. The paper counts those without a response too (``keep_empty``).
        tokenizer: whose tokens are counted.
        style: of the prompt.

    Raises:
        HycamError: the prompt needs a chat template that the tokenizer does not have.
    """
    total = sum(_tokens(batch, tokenizer, style) for batch in dataset.iter(batch_size=_ROWS_AT_ONCE))
    return Statistics(
        task=task.name,
        samples=len(dataset),
        total_tokens=total,
        mean_tokens=total / len(dataset) if len(dataset) else 0.0,
        domain=task.domain,
        source=" or ".join(source.describe() for source in task.sources),
        paper_samples=task.paper.samples if task.paper else None,
        paper_tokens=task.paper.tokens if task.paper else None,
    )


def _tokens(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, style: str) -> int:
    rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
    texts = [text for row in rows for text in _texts(row, tokenizer, style)]
    # verbose: nothing is too long to be counted.
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return sum(map(len, encoded["input_ids"])) + len(texts)


def _texts(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, style: str) -> Iterator[str]:
    """Each answer with what stands before it; a row has one, a conversation several."""
    for before, answer in render_turns(row, style, tokenizer, turns="last"):
        yield before + answer
