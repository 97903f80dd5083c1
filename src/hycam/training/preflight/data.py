"""What became of the data: rows dropped or shortened, responses lost, rows in two parts, tokens beyond the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.compute
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.encode import encode
from hycam.data.partition import partition
from hycam.data.prepare import Prepared, Progress, form_of, prepare
from hycam.data.recipe import PARTS, DataRecipe, MixtureRecipe
from hycam.errors import HycamError
from hycam.tables import Tables
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows

# From half on, what is trained is another data set than the one that was named, and the rows that are left are not a
# sample of it: they are its short ones. A tenth shows in the results of a task.
MOST_LOST = 0.5
MANY_LOST = 0.1
# A prompt without its middle can still be answered often; when a quarter of them are, it should be known.
MANY_SHORTENED = 0.25

_SAMPLE = 500  # rows of a task, to count what is lost of the responses
_MOST_ROWS = 200_000  # of all parts, up to which rows are compared with one another
_NO_LIMIT = 1 << 24
_SHOWN = 3


def prepared(
    recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> tuple[Findings, Prepared | None]:
    """The data of a recipe, as training prepares them, or what is wrong with each task."""
    found = Findings("data")
    try:
        return found, prepare(recipe, tokenizer, progress)
    except HycamError as error:
        whole = str(error)
    # The first task that fails hides those behind it. Each alone: what was tokenised before is in the cache.
    for entry in recipe.tasks if len(recipe.tasks) > 1 else ():
        found.attempt(prepare, replace(recipe, tasks=[entry], mixture=MixtureRecipe()), tokenizer, progress)
    if not found:
        found.error(whole)
    return found, None


def check_lengths(recipe: DataRecipe, data: Prepared) -> Findings:
    """How many rows the maximum length drops or shortens, by the counts that are there."""
    found = Findings("data")
    for part in PARTS:
        for name, counts in data.counts[part].items():
            dropped, shortened = counts.dropped / max(1, counts.rows), counts.shortened / max(1, counts.kept)
            rows = f"{name}: of the {counts.rows:,} {part} rows"
            if dropped > MANY_LOST:
                shorten = ", or set data.overlong to shorten" if recipe.overlong == "drop" else ""
                (found.error if dropped > MOST_LOST else found.warn)(
                    f"{rows}, {dropped:.0%} are dropped as too long, so that the short ones are left. Raise "
                    f"data.max_length ({recipe.max_length:,}){shorten}, or leave the task out."
                )
            if shortened > MANY_SHORTENED:
                found.warn(
                    f"{rows}, {shortened:.0%} are shortened in the middle of the prompt. Raise data.max_length "
                    f"({recipe.max_length:,}) if what is asked stands there."
                )
    return found


def check_responses(recipe: DataRecipe, data: Prepared, tokenizer: PreTrainedTokenizerBase) -> Findings:
    """How much of the responses the maximum length loses, counted on a sample of each task that loses any."""
    found = Findings("data")
    for name, chosen in chosen_tasks(recipe).items():
        counts = [data.counts[part][name] for part in PARTS]
        lost = _lost(chosen, recipe, tokenizer) if any(one.dropped or one.shortened for one in counts) else 0
        if lost > MANY_LOST:
            (found.error if lost > MOST_LOST else found.warn)(
                f"{name}: {lost:.0%} of the response tokens do not fit into data.max_length ({recipe.max_length:,}) "
                "and are not trained on. Raise it, or leave the task out."
            )
    return found


def _lost(chosen: Chosen, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of the labelled tokens of a task's training rows that are dropped or cut, in a sample of the rows."""
    rows = partition(chosen, recipe).part("train")
    sample = rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int)))
    form = form_of(chosen, recipe)
    kept, whole = (
        encode(sample, tokenizer, one).counts.response_tokens for one in (form, replace(form, max_length=_NO_LIMIT))
    )
    return 1 - kept / whole if whole else 0.0


def check_duplicates(data: Prepared) -> Findings:
    """Rows that are validated or tested on and have the whole prompt of a training row, of any task."""
    found = Findings("data")
    if sum(len(rows) for part in PARTS for rows in getattr(data, part).values()) > _MOST_ROWS:
        return found
    trained = {hash(prompt) for rows in data.train.values() for prompt in _prompts(rows)}
    for part in ("validation", "test"):
        for name, rows in getattr(data, part).items():
            known = sum(hash(prompt) in trained for prompt in _prompts(rows))
            if known:
                found.warn(
                    f"{name}: {known:,} of {len(rows):,} {part} rows ask what a training row asks, word for word, so a "
                    "figure on them says little about new questions. Drop duplicates from the source, or split by a "
                    "group (columns: {group: ...})."
                )
    return found


def _prompts(rows: datasets.Dataset) -> Iterator[str]:
    for batch in rows.select_columns(["prompt"]).with_format("arrow").iter(batch_size=1000):
        yield from batch["prompt"].to_pylist()


def check_tables(
    recipe: Recipe, data: Prepared, tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel
) -> Findings:
    """Whether the rows keep within the tables in which the backbone looks tokens and positions up.

    Args:
        recipe: what is trained.
        data: its rows.
        tokenizer: the backbone's.
        backbone: need not have weights.

    Returns:
        what is wrong with the rows; findings about ``settings`` concern only the answers that evaluation generates.
    """
    tables = Tables.of(backbone)
    parts = {(part, name): rows for part in PARTS for name, rows in getattr(data, part).items()}
    found = _tokens(recipe, tables, parts, tokenizer)
    found += _positions(recipe, tables, parts, backbone)
    return found


def _tokens(
    recipe: Recipe,
    tables: Tables,
    parts: Mapping[tuple[str, str], datasets.Dataset],
    tokenizer: PreTrainedTokenizerBase,
) -> Findings:
    found = Findings("data")
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= tables.tokens}
    if not beyond:
        return found
    where = f"and {recipe.backbone} has {tables.tokens:,} embeddings, for 0 to {tables.tokens - 1}"
    if tokenizer.pad_token_id in beyond:
        found.error(
            f'The padding token "{tokenizer.pad_token}" has the id {tokenizer.pad_token_id}, {where}. Set pad_token in '
            f'the tokenizer_config.json to the end token, "{tokenizer.eos_token}": padding is masked.',
            about="backbone",
        )
    for (part, name), rows in parts.items():
        most, row = _largest(rows)
        if most >= tables.tokens:
            found.error(
                f'{name}: the {part} row {row} has the token "{beyond.get(most, most)}" with the id {most}, {where}. '
                "Take the tokenizer that belongs to the backbone, or save a copy of the backbone with "
                "resize_token_embeddings(len(tokenizer)) and train its embeddings (modules_to_save)."
            )
    if not found:
        shown = ", ".join(f'"{token}"' for _, token in sorted(beyond.items())[:_SHOWN])
        more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        found.warn(
            f"The tokenizer has tokens from the id {min(beyond)} on ({shown}{more}), {where}. No row has one of them; "
            "a text that has one is refused.",
            about="backbone",
        )
    return found


def _largest(rows: datasets.Dataset) -> tuple[int, str]:
    """The largest token id of a part, and the row that has it."""
    largest, row = -1, ""
    for table in rows.select_columns(["row", "input_ids"]).with_format("arrow").iter(batch_size=1000):
        for ids, name in zip(table["input_ids"], table["row"], strict=True):
            most = pyarrow.compute.max(ids.values).as_py() if len(ids) else -1
            if most > largest:
                largest, row = most, str(name)
    return largest, row


def _positions(
    recipe: Recipe, tables: Tables, parts: Mapping[tuple[str, str], datasets.Dataset], backbone: PreTrainedModel
) -> Findings:
    """Whether rows, and answers behind their prompts, are longer than what the backbone was made for."""
    found = Findings("data")
    most = tables.positions or getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int):
        return found
    longest = max(int(MixedRows({"": rows}).lengths.max()) for rows in parts.values())
    text = f"The longest row has {longest:,} tokens and the backbone {most:,} positions"
    if longest > most and tables.positions is not None:
        found.error(f"{text}, each with an embedding of its own. Lower data.max_length to {most}.")
    elif longest > most:
        found.warn(f"{text}: what lies beyond, it has never seen. Lower data.max_length to {most}.")
    evaluation = recipe.evaluation
    if tables.positions is None or longest > most or evaluation.generate_rows == 0:
        return found
    prompt = max(max(rows["prompt_length"]) for (part, _), rows in parts.items() if part == evaluation.part)
    if prompt + evaluation.max_new_tokens - 1 > most:
        found.error(
            f"The longest prompt of the {evaluation.part} part has {prompt:,} tokens, and with "
            f"evaluation.max_new_tokens={evaluation.max_new_tokens} an answer would go beyond the {most:,} positions "
            f"of the backbone, so that `hycam evaluate` is refused. Lower it to {max(1, most - prompt + 1)}, or "
            "data.max_length.",
            about="settings",
        )
    return found
