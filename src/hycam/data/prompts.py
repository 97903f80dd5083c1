"""From rows to turns: the trained answers and the text before each.

A line end between the prompt's last marker and the response belongs to the prompt: the first token that is trained, and
the first that a model generates, is the response's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from hycam.data.chat import Turn, called, chat_turns, end_token, generation_prompt, no_trained_answer
from hycam.data.conversation import Chat, conversation_of, is_trained
from hycam.data.recipe import Overlong, Turns
from hycam.errors import HycamError, nearest

STYLES = ("alpaca", "paper", "chat")

# Stanford Alpaca's wording, to the letter: results are comparable only under the same prompt.
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_LATER_TURN = "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
_ALPACA = ("alpaca", "paper")  # the paper's code puts the response right after the marker
_FIELD = re.compile(r"\{(instruction|input|system)\}")


@dataclass(frozen=True)
class Form:
    """How a row becomes tokens.

    Args:
        prompt: ``"alpaca"``: the Stanford Alpaca form, with or without the input part, later turns without its
            preamble; the tokenizer adds its special tokens. ``"paper"``: the same without the last
            line end, as the released code of the paper has it. ``"chat"``: the tokenizer's chat template, the input
            below the instruction; special tokens are part of the text, and an answer is as the template writes
            it. Anything else is a template: each turn is the template with ``{instruction}``, ``{input}`` and
            ``{system}`` filled in; without a placeholder, the system text goes before the instruction and the input
            below it.
        max_length: maximum number of tokens of prompt, response and end token together.
        overlong: what happens to a longer row. ``"shorten"`` removes the excess from the middle of the prompt (all text
            before the last response), so that the beginning of the instruction and the marker before the response
            stay; if fewer than 16 tokens of prompt would be left, the row is dropped. ``"drop"`` drops it.
        turns: which answers of a conversation are trained; ``"last"`` gives a chat as one turn, so the template may
            change the earlier ones.
        skip_bad_rows: skip and count a row that cannot be rendered or cut, instead of an error.
    """

    prompt: str = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    turns: Turns = "all"
    skip_bad_rows: bool = False


def check_prompt(style: str, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raises HycamError if a prompt is neither one of ``STYLES`` nor a template, or needs a missing chat template."""
    if style not in STYLES and "{instruction}" not in style:
        raise HycamError(
            f'There is no prompt "{style}": {", ".join(STYLES)}, or a template with {{instruction}} and, if wanted, '
            f"{{input}} and {{system}} in it were expected.{nearest(style, STYLES)}"
        )
    if style == "chat" and tokenizer is not None and not tokenizer.chat_template:
        raise HycamError(
            f'The prompt "chat" needs a chat template, and {called(tokenizer)} has none. '
            'Use the prompt "alpaca", or a backbone that was tuned for chat.'
        )


def rendered(
    rows: Iterable[tuple[int, Mapping[str, Any]]], tokenizer: PreTrainedTokenizerBase, form: Form
) -> tuple[dict[int, list[Turn]], dict[int, str]]:
    """The turns of rows by their numbers, and the errors of the rows that are skipped.

    Raises:
        HycamError: a row cannot be rendered, and ``form`` does not skip it; the message has its identity.
    """
    found: dict[int, list[Turn]] = {}
    bad: dict[int, str] = {}
    for number, row in rows:
        try:
            found[number] = render_turns(row, form.prompt, tokenizer, form.turns)
        except HycamError as error:
            bad[number] = skipped(row, error, form)
    return found, bad


def skipped(row: Mapping[str, Any], error: HycamError, form: Form) -> str:
    """The error of a row with its identity; raised unless ``form`` skips such rows."""
    told = f"{row['row']}: {error}"
    if not form.skip_bad_rows:
        raise HycamError(told) from error
    return told


def render(example: Mapping[str, Any], style: str, tokenizer: PreTrainedTokenizerBase, thinks: bool = False) -> str:
    """The generation prompt of an example: everything before its response.

    Args:
        example: has ``instruction``, ``input`` (may be empty) and optionally ``system``; for a chat also ``history``,
            or ``messages`` that end with a question.
        style: the ``prompt`` of :class:`Form`.
        tokenizer: its chat template is used by ``"chat"``.
        thinks: whether the response begins with a thought, if the chat template supports both.

    Raises:
        HycamError: as :func:`render_turns`.
    """
    if style == "chat":
        check_prompt("chat", tokenizer)
        asked = conversation_of({name: value for name, value in example.items() if name != "response"})
        return generation_prompt(tokenizer, asked, thinks)
    (only,) = render_turns({**example, "response": "", "history": ()}, style, tokenizer)
    return only.before


def render_turns(
    example: Mapping[str, Any], style: str, tokenizer: PreTrainedTokenizerBase, turns: Turns = "all"
) -> list[Turn]:
    """The trained answers of an example, each with the text before it.

    Args:
        example: ``instruction``, ``input``, ``response``, ``history`` (a list of ``asked`` and ``answered``) and
            optionally ``system``; or ``messages``, as in a row of ``load_task``.
        style: the ``prompt`` of :class:`Form`.
        tokenizer: its chat template is used by ``"chat"``.
        turns: as in :class:`Form`.

    Raises:
        HycamError: ``"chat"`` with a tokenizer that has no chat template, or as :func:`hycam.data.chat.chat_turns`;
            another prompt with what only a chat supports, such as tool calls.
    """
    if style == "chat":
        check_prompt("chat", tokenizer)
        return chat_turns(conversation_of(example), tokenizer, turns)
    if example.get("messages"):
        return _of_messages(conversation_of(example), style, tokenizer)
    found: list[Turn] = []
    system = example.get("system") or ""
    for turn in example["history"]:
        found.append(Turn(_before(style, turn["asked"], "", system, is_first=not found), turn["answered"]))
        system = ""
    given = example["input"] if example["input"].strip() else ""
    before = _before(style, example["instruction"], given, system, is_first=not found)
    return [*found, Turn(before, example["response"])]


def _of_messages(conversation: Chat, style: str, tokenizer: PreTrainedTokenizerBase) -> list[Turn]:
    """Questions and answers in turn; an answer that is not trained is part of the text before the next one."""
    said = conversation.messages
    system = said[0]["content"] if said[0]["role"] == "system" else ""
    said = said[1:] if system else said
    lacking = conversation.tools or any(set(message) - {"role", "content", "weight", "name"} for message in said)
    roles = [message["role"] for message in said]
    if lacking or roles != ["user", "assistant"] * (len(roles) // 2):
        raise HycamError(
            f'The prompt "{style}" supports only questions and answers in turn, but this conversation has thoughts, '
            'tools, or two messages by one side in a row. Use the prompt "chat".'
        )
    found: list[Turn] = []
    before = ""
    for number in range(0, len(said), 2):
        asked, answer = said[number : number + 2]
        before += _before(style, asked["content"], "", "" if number else system, is_first=number == 0)
        if is_trained(answer):
            found.append(Turn(before, answer["content"]))
            before = ""
        else:
            before += answer["content"] + end_token(tokenizer, style)
    if not found:
        raise no_trained_answer()
    return found


def _before(style: str, instruction: str, given: str, system: str, is_first: bool) -> str:
    """The text before one answer."""
    if style not in _ALPACA:
        return _filled(style, instruction, given, system)
    template = _LATER_TURN if not is_first else _WITH_INPUT if given else _WITHOUT_INPUT
    if style == "paper":
        template = template.removesuffix("\n")
    before = _filled(template, instruction, given, "")
    return f"{system}\n\n{before}" if system else before


def _filled(template: str, instruction: str, given: str, system: str) -> str:
    if given and "{input}" not in template:
        instruction = f"{instruction}\n\n{given}"
    if system and "{system}" not in template:
        instruction = f"{system}\n\n{instruction}"
    values = {"instruction": instruction, "input": given, "system": system}
    # In one pass, so that braces in a row's own text stay as they are.
    return _FIELD.sub(lambda match: values[match[1]], template)
