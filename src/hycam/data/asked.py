"""Rows to generate answers for: read and formatted as in training, with or without an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from hycam.data.chat import generation_prompt, no_trained_answer
from hycam.data.chosen import chosen_tasks
from hycam.data.columns import CONVERSATIONS, ByColumns, pair_to_ask
from hycam.data.conversation import conversation_of
from hycam.data.encode import encode, warn_of_bad_rows
from hycam.data.messages import BY_ASSISTANT, keys_of, role_of
from hycam.data.partition import rows_of
from hycam.data.prompts import Form, check_prompt
from hycam.data.recipe import DataRecipe, MixtureRecipe, SplitRecipe, TaskRecipe
from hycam.data.rows import Example, SourceRow
from hycam.data.sources import Source
from hycam.data.tokens import encode_prompts
from hycam.errors import HycamError

_ANSWER = "answer"  # a placeholder: what precedes an answer does not depend on it
_NO_LIMIT = 1 << 24


def asked_rows(wanted: str | TaskRecipe, recipe: DataRecipe) -> list[dict[str, Any]]:
    """The rows of a file, or of anything else that a recipe may list under ``tasks``.

    Args:
        wanted: as in a recipe. If it is the path of a task of ``recipe``, that task's settings apply.
        recipe: of the run; its ``skip_bad_rows`` and ``dataset_info`` apply.

    Returns:
        ``row``, ``instruction``, ``input``, ``system``, ``history``, and a ``response`` that may be a placeholder.

    Raises:
        HycamError: as :func:`hycam.data.load.load_task`.
    """
    if isinstance(wanted, str):
        wanted = next((one for one in recipe.tasks if _is_at(one, wanted)), wanted)
    if isinstance(wanted, TaskRecipe):
        wanted = replace(wanted, split=None)
        if "instruction" in wanted.columns:
            wanted = replace(wanted, columns={"response": "response", **wanted.columns})
    alone = replace(recipe, tasks=[wanted], split=SplitRecipe(), mixture=MixtureRecipe(), fold=0)
    (chosen,) = chosen_tasks(alone).values()
    (task,) = chosen.tasks  # the split is by folds
    task = replace(task, sources=tuple(map(_without_answers, task.sources)))
    return rows_of(replace(chosen, tasks=(task,)), alone, keep_empty=True).dataset.to_list()


def asked_ids(
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    thinks: bool = False,
    skip_bad_rows: bool = False,
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """The rows, and the token ids before the last answer of each, exactly as in training; none is truncated.

    Args:
        rows: have at least ``instruction`` and ``input``, as :func:`asked_rows` gives them.
        tokenizer: of the backbone.
        prompt: see :class:`hycam.data.prompts.Form`.
        thinks: whether answers begin with a thought, if the chat template supports both.
        skip_bad_rows: skip rows that cannot be rendered, with a warning.

    Raises:
        HycamError: as :func:`hycam.data.encode.encode`; or all rows were skipped.
    """
    whole = [
        {"row": f"prompt {number}", "system": "", "history": [], **row, "response": _ANSWER}
        for number, row in enumerate(rows, 1)
    ]
    if prompt == "chat":
        check_prompt(prompt, tokenizer)
        texts, bad = {}, {}
        for number, row in enumerate(whole):
            try:
                texts[number] = _opening(row, tokenizer, thinks)
            except HycamError as error:
                if not skip_bad_rows:
                    raise
                bad[number] = str(error)
        found = dict(zip(texts, encode_prompts(list(texts.values()), tokenizer, prompt), strict=True))
    else:
        form = Form(prompt, _NO_LIMIT, skip_bad_rows=skip_bad_rows)
        encoded = encode(datasets.Dataset.from_list(whole), tokenizer, form)
        found = {row["index"]: row["input_ids"][: row["prompt_length"]] for row in encoded.dataset}
        bad = encoded.bad
    if bad and not found:
        raise HycamError(bad[min(bad)])
    warn_of_bad_rows("generation", bad)
    return [rows[number] for number in found], list(found.values())


def _opening(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, thinks: bool) -> str:
    """The text before the last trained answer of a chat."""
    conversation = conversation_of(row)
    answers = conversation.trained()
    try:
        if not answers:
            raise no_trained_answer()
        return generation_prompt(tokenizer, conversation.up_to(answers[-1]), thinks)
    except HycamError as error:
        raise HycamError(f"{row['row']}: {error}") from error


def _is_at(entry: str | TaskRecipe, path: str) -> bool:
    where = entry.path if isinstance(entry, TaskRecipe) else None
    return where is not None and Path(where).expanduser().absolute() == Path(path).expanduser().absolute()


def _without_answers(source: Source) -> Source:
    """The source with a converter that needs no answers; the source of a known dataset is unchanged."""
    convert = source.convert
    if type(convert) is not ByColumns:
        return source
    return replace(source, convert=Asked(**vars(convert)))  # type: ignore[type-var]  # every kind is a dataclass


@dataclass(frozen=True)
class Asked(ByColumns):
    """As :class:`ByColumns`, but rows may lack the answer, or conversations the last one."""

    @property
    def expected(self) -> frozenset[str]:
        return super().expected - {self.columns.get("response")}

    def __call__(self, row: SourceRow) -> Example:
        return super().__call__(replace(row, fields=self._answered(row.fields)))

    def _answered(self, fields: dict[str, Any]) -> dict[str, Any]:
        for column in (self.columns["messages"],) if "messages" in self.columns else CONVERSATIONS:
            messages = fields.get(column)
            if isinstance(messages, list) and messages:
                return {**fields, column: messages + self._reply(messages)}
        if "response" in self.columns:
            question, answer = self.columns.get("instruction"), self.columns["response"]
        else:
            question, answer = pair_to_ask(fields)
        if question not in fields or fields.get(
            answer
        ):  # of unknown shape, which the caller reports, or answered already
            return fields
        asked = fields.get(question)
        if isinstance(asked, list):  # TRL's form, of messages
            said = asked + self._reply(asked)
            return {**fields, question: said[:-1], answer: said[-1:]}
        return {**fields, answer: _ANSWER}

    def _reply(self, messages: list[Any]) -> list[dict[str, Any]]:
        """A placeholder answer to the last message, in the spelling of that message; none if it is an answer."""
        last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
        keys = keys_of(self.tags)
        role, content = next((pair for pair in keys if last.get(pair[0]) is not None), keys[0])
        if role_of(last.get(role), self.tags) in BY_ASSISTANT:
            return []
        return [{role: self.tags.get("assistant", "assistant"), content: _ANSWER}]
