"""Table 1: the rows and the tokens of each task, with the paper's beside them."""

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


def data_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The study's tasks, whole, counted as the paper counts its own; each row is read, which takes some seconds."""
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
    counts = ["Rows", "Tokens", "Tokens a row"]
    if not has_paper:
        return Table("data", "Data", note, ["Task", *counts, "Domain"], [[*row[:4], row[-1]] for row in rows])
    note += (
        " Paper: its Table 1, where 20,222 rows of CodeAlpaca are probably a misprint of 20,022. Its WebGPT had 736 "
        "tokens a row and so another form of the data, which is not set beside ours."
    )
    groups = [("", 1), ("Ours", 3), ("Paper", 3), ("", 1)]
    return Table("data", "Data", note, ["Task", *counts, *counts, "Domain"], rows, groups)


def _line(name: str, chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> list[Entry]:
    # Where each part has a file of its own, its tasks differ in where they come from alone.
    counted = statistics(
        chosen.task or chosen.parts["train"],
        rows_of(chosen, recipe, keep_empty=True).dataset,
        tokenizer,
        skip_bad_rows=recipe.skip_bad_rows,
    )
    printed = paper.counts(name)
    theirs = [BLANK] * 3
    if printed is not None:
        theirs = [
            _count(printed["samples"], muted=True),
            _count(printed["total_tokens"], muted=True),
            Entry(f"{printed['mean_tokens']:.2f}", printed["mean_tokens"], muted=True),
        ]
    mean = Entry(f"{counted.mean_tokens:.2f}", counted.mean_tokens)
    return [Entry(name), _count(counted.samples), _count(counted.total_tokens), mean, *theirs, Entry(counted.domain)]


def _count(number: int, muted: bool = False) -> Entry:
    return Entry(f"{number:,}", number, muted=muted)
