"""Whether the rows keep within the tables that the backbone looks tokens and positions up in."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import pyarrow.compute
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.prepare import Prepared
from hycam.data.recipe import PARTS
from hycam.tables import Tables
from hycam.training.preflight.finding import Findings
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows

_SHOWN = 3


def check_tables(
    recipe: Recipe, data: Prepared, tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel
) -> Findings:
    """Tokens and positions of all parts; what is wrong about ``settings`` is so of the answers to them alone.

    Args:
        recipe: what is trained.
        data: its rows.
        tokenizer: the backbone's.
        backbone: need not have weights.
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
    found = Findings()
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= tables.tokens}
    if not beyond:
        return found
    where = f"and {recipe.backbone} has {tables.tokens:,} embeddings, for 0 to {tables.tokens - 1}"
    remedy = (
        "Take the tokenizer that belongs to the backbone, or save a copy of the backbone with "
        "resize_token_embeddings(len(tokenizer)) and train its embeddings (modules_to_save)."
    )
    if tokenizer.pad_token_id in beyond:
        found.error(
            "backbone",
            f'The padding token "{tokenizer.pad_token}" has the id {tokenizer.pad_token_id}, {where}. Set pad_token in '
            f'the tokenizer_config.json to the end token, "{tokenizer.eos_token}": padding is masked.',
        )
    had: set[int] = set()
    for (part, name), rows in parts.items():
        most, row = _largest(rows)
        if most >= tables.tokens:
            had.add(most)
            found.error(
                "data",
                f'{name}: the {part} row {row} has the token "{beyond.get(most, most)}" with the id {most}, {where}. '
                f"{remedy}",
            )
    if not found:
        shown = ", ".join(f'"{token}"' for _, token in sorted(beyond.items())[:_SHOWN])
        more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        found.warn(
            "backbone",
            f"The tokenizer has tokens from the id {min(beyond)} on ({shown}{more}), {where}. No row has one of them; "
            "a text that has one is refused.",
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
    found = Findings()
    most = tables.positions or getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int):
        return found
    longest = max(int(MixedRows({"": rows}).lengths.max()) for rows in parts.values())
    text = f"The longest row has {longest:,} tokens and the backbone {most:,} positions"
    if longest > most and tables.positions is not None:
        found.error("data", f"{text}, each with an embedding of its own. Lower data.max_length to {most}.")
    elif longest > most:
        found.warn("data", f"{text}: what lies beyond, it has never seen. Lower data.max_length to {most}.")
    evaluation = recipe.evaluation
    if tables.positions is None or longest > most or evaluation.generate_rows == 0:
        return found
    prompt = max(max(rows["prompt_length"]) for (part, _), rows in parts.items() if part == evaluation.part)
    if prompt + evaluation.max_new_tokens - 1 > most:
        found.error(
            "settings",
            f"The longest prompt of the {evaluation.part} part has {prompt:,} tokens, and with "
            f"evaluation.max_new_tokens={evaluation.max_new_tokens} an answer would go beyond the {most:,} positions "
            f"of the backbone, so that `hycam evaluate` is refused. Lower it to {max(1, most - prompt + 1)}, or "
            "data.max_length.",
        )
    return found
