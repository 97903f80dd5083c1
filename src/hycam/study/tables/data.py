"""Table 1: the rows and the tokens of each task, beside the paper's."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hycam.backbones import load_tokenizer
from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.partition import rows_of
from hycam.data.recipe import DataRecipe
from hycam.data.stats import statistics
from hycam.data.tasks import PAPER
from hycam.errors import HycamError
from hycam.study import paper
from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.table import BLANK, Entry, NotRun, Table

_PAPER_TOKENIZER = "llama-3"
_COUNTS = ["Rows", "Tokens", "Tokens a row"]
_BLANKS = [BLANK] * len(_COUNTS)


def data_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The study's tasks, whole, counted as the paper counts its own; reads every row, which takes some seconds."""
    recipe = plan.study.data
    try:
        found = chosen_tasks(recipe)
        has_paper = any(name in PAPER for name in found)
        tokenizer = _PAPER_TOKENIZER if has_paper else next(iter(plan.study.backbones.values()))
        loaded = load_tokenizer(tokenizer, plan.study.trust_remote_code)
        rows = [_line(name, one, recipe, loaded) for name, one in found.items()]
    except HycamError as error:
        raise NotRun(f"The data cannot be counted: {error}") from error
    note = (
        f"Every row with its prompt, response and one token more, counted with the tokenizer {tokenizer}. A cell may "
        "train and test on fewer, as the study's settings say."
    )
    if not has_paper:
        return Table("data", "Data", note, ["Task", *_COUNTS, "Domain"], [[*row[:4], row[-1]] for row in rows])
    note += (
        " Paper: its Table 1, where 20,222 rows of CodeAlpaca are probably a misprint of 20,022. Its WebGPT had 736 "
        "tokens a row and so another form of the data, which is not set beside ours."
    )
    groups = [("", 1), ("Ours", 3), ("Paper", 3), ("", 1)]
    return Table("data", "Data", note, ["Task", *_COUNTS, *_COUNTS, "Domain"], rows, groups)


def _line(name: str, chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> list[Entry]:
    # Where each part has a file of its own, its tasks differ only in where they come from.
    task = chosen.task or chosen.parts["train"]
    rows = rows_of(chosen, recipe, keep_empty=True).dataset
    ours = statistics(task, rows, tokenizer, skip_bad_rows=recipe.skip_bad_rows)
    theirs = paper.counts(name)
    return [
        Entry(name),
        *_counts(ours.samples, ours.total_tokens, ours.mean_tokens),
        *(_counts(theirs["samples"], theirs["total_tokens"], theirs["mean_tokens"], muted=True) if theirs else _BLANKS),
        Entry(ours.domain),
    ]


def _counts(samples: int, total_tokens: int, mean_tokens: float, muted: bool = False) -> list[Entry]:
    counted = [Entry(f"{number:,}", number, muted=muted) for number in (samples, total_tokens)]
    return [*counted, Entry(f"{mean_tokens:.2f}", mean_tokens, muted=muted)]
