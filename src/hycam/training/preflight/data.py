"""The prepared data: rows dropped or truncated, rows in two parts, tokens out of range, and the largest batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, zip_longest

import datasets
import numpy as np
import pyarrow.compute
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.chosen import Chosen, chosen_tasks
from hycam.data.encode import encode
from hycam.data.partition import partition
from hycam.data.prepare import Prepared, Progress, form_of, prepare
from hycam.data.recipe import PARTS, DataRecipe, MixtureRecipe
from hycam.errors import HycamError
from hycam.evaluation.batching import batches_by_length
from hycam.tables import Tables
from hycam.training.preflight.findings import Findings
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, batches_of, steps_in_epoch, steps_of

# Past half, what is trained on is no longer the data set that was named, only its short rows. A tenth already shows in
# a task's results.
MOST_LOST = 0.5
MANY_LOST = 0.1
# A prompt without its middle can often still be answered; a quarter of them is worth a warning.
MANY_SHORTENED = 0.25

_SAMPLE = 500  # rows of a task, to count what is lost of the responses
_MOST_ROWS = 200_000  # of all parts, up to which rows are compared with one another
_NO_LIMIT = 1 << 24
_SHOWN = 3

# Korthikanti et al. (2022, arXiv:2205.05198): a block keeps about 34 bytes a token and hidden unit of 16-bit values.
_VALUES_KEPT = 17
_VALIDATION_TOKENS = 2048  # as hycam.evaluation.perplexity.response_nll bounds its batches


def prepared(
    recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> tuple[Findings, Prepared | None]:
    """The data of a recipe, as training prepares them, or what is wrong with each task."""
    found = Findings("data")
    try:
        return found, prepare(recipe, tokenizer, progress)
    except HycamError as error:
        whole = str(error)
    # The first task that fails hides the others, so each is prepared by itself; the cache makes that cheap.
    for entry in recipe.tasks if len(recipe.tasks) > 1 else ():
        found.attempt(prepare, replace(recipe, tasks=[entry], mixture=MixtureRecipe()), tokenizer, progress)
    if not found:
        found.error(whole)
    return found, None


def check_lengths(recipe: DataRecipe, data: Prepared) -> Findings:
    """How many rows the maximum length drops or truncates."""
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
    """How much of the responses the maximum length cuts off, from a sample of each task that loses any."""
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
    """The share of labelled tokens that are dropped or truncated, in a sample of a task's training rows."""
    rows = partition(chosen, recipe).part("train")
    sample = rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int)))
    form = form_of(chosen, recipe)
    kept, whole = (
        encode(sample, tokenizer, one).counts.response_tokens for one in (form, replace(form, max_length=_NO_LIMIT))
    )
    return 1 - kept / whole if whole else 0.0


def check_duplicates(data: Prepared) -> Findings:
    """Validation and test rows whose whole prompt is that of a training row, of any task."""
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
    """Whether tokens and positions of the rows are within the backbone's embedding tables.

    ``backbone`` needs no weights. Findings about ``settings`` concern only the answers that evaluation generates.
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
    """Whether rows, or prompts with their answers, are longer than the backbone allows."""
    found = Findings("data")
    most = tables.positions or getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int):
        return found
    longest = max(int(MixedRows({"": rows}).lengths.max()) for rows in parts.values())
    text = f"The longest row has {longest:,} tokens and the backbone {most:,} positions"
    if longest > most and tables.positions is not None:
        found.error(f"{text}, each with an embedding of its own. Lower data.max_length to {most}.")
    elif longest > most:
        found.warn(f"{text}: it was not trained on longer rows. Lower data.max_length to {most}.")
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


def largest_batch(recipe: Recipe, data: dict[str, datasets.Dataset], config: PreTrainedConfig, world: int) -> list[int]:
    """The rows of the largest micro-batch of the whole run, of all processes, as :class:`MixedRows` numbers them.

    The largest has the most tokens on one process, padding included. A labelled token weighs more, by the memory of its
    logits relative to that of a token's activations.
    """
    rows = MixedRows(data)
    labelled = np.concatenate([_labelled(part) for part in data.values()])
    blocks = 1 if recipe.training.gradient_checkpointing else config.get_text_config().num_hidden_layers
    weight = _label_weight(config, blocks)

    def size(batch: list[int]) -> float:
        lengths = rows.lengths[batch]
        tokens = lengths.sum() if recipe.data.packing else len(batch) * lengths.max(initial=0)
        return tokens + weight * labelled[batch].sum()

    shares = [batches_of(recipe, rows, world, process) for process in range(world)]
    whole_epochs, steps = divmod(steps_of(recipe, shares[0]), steps_in_epoch(recipe, shares[0]))
    left = whole_epochs * len(shares[0]) + steps * recipe.training.gradient_accumulation
    largest: tuple[list[int], ...] = ()
    most, epoch = -1.0, 0
    while left > 0:
        for share in shares:
            share.set_epoch(epoch)
        for parts in zip(*shares, strict=True):
            if left > 0 and (found := max(map(size, parts))) > most:
                most, largest = found, parts
            left -= 1
        epoch += 1
    return [row for row in chain(*zip_longest(*largest)) if row is not None]


def largest_validation_batch(
    tasks: dict[str, datasets.Dataset], config: PreTrainedConfig, batch_size: int
) -> dict[str, datasets.Dataset]:
    """The rows of the largest validation batch, under their task. Without a backward pass, logits dominate."""
    weight = _label_weight(config, blocks=1)
    most, largest = -1.0, {}
    for name, rows in tasks.items():
        lengths, labelled = MixedRows({name: rows}).lengths, _labelled(rows)
        for batch in batches_by_length(lengths.tolist(), batch_size, _VALIDATION_TOKENS):
            size = len(batch) * lengths[batch].max() + weight * labelled[batch].sum()
            if size > most:
                most, largest = size, {name: rows.select(batch)}
    return largest


def _label_weight(config: PreTrainedConfig, blocks: int) -> float:
    """What the loss holds for a labelled token (logits, probabilities, gradient), relative to a token's activations."""
    text = config.get_text_config()
    return 3 * text.vocab_size / (_VALUES_KEPT * blocks * text.hidden_size)


def _labelled(rows: datasets.Dataset) -> np.ndarray:
    """Labelled tokens of each row, ``[rows]``."""
    return rows.select_columns(["trained"]).with_format("numpy")[:]["trained"]
