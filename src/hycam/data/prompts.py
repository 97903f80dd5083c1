"""From rows to turns: the texts before the trained answers, and the answers.

A line end between the prompt's last marker and the response belongs to the prompt: the first token that is trained,
and that a model generates, is the response's own.
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

# The wording of Stanford Alpaca, kept to the letter: results are comparable only under the same prompt.
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
_ALPACA = ("alpaca", "paper")  # the paper's code puts the response right behind the marker
_FIELD = re.compile(r"\{(instruction|input|system)\}")


@dataclass(frozen=True)
class Form:
    """How a row becomes tokens.

    Args:
        prompt: ``"alpaca"``: the Stanford Alpaca form, with or without the input part, later turns without its
            preamble; the tokenizer's own special tokens still have to be added. ``"paper"``: the same without the last
            line end, as the released code of the paper has it. ``"chat"``: the tokenizer's chat template, the input
            below the instruction; special tokens are in the text already, and an answer is what the template makes of
            it. Anything else is a template: each turn is the template with ``{instruction}``, ``{input}`` and
            ``{system}`` put in; what it has no place for goes before (system) or below (input) the instruction.
        max_length: most tokens of prompt, response and end token together.
        overlong: what becomes of a row that is longer. ``"shorten"`` takes the excess out of the middle of the prompt
            (of all that stands before the last response), where neither the instruction's beginning nor the marker
            before the response is lost; where that would leave fewer than 16 tokens of prompt, the row is dropped.
            ``"drop"`` drops it.
        turns: which answers of a conversation are trained; ``"last"`` gives a chat as one turn, so that the template
            may shorten the earlier ones.
        skip_bad_rows: a row that cannot be rendered or cut is passed over and counted, instead of an error.
    """

    prompt: str = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    turns: Turns = "all"
    skip_bad_rows: bool = False


def check_prompt(style: str, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raises HycamError where a prompt is neither one of ``STYLES`` nor a template, or ``tokenizer`` cannot make it."""
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
    """The turns of rows by their numbers, and what is wrong with those that are passed over.

    Raises:
        HycamError: a row cannot be rendered, and ``form`` does not say to skip it; the message has its identity.
    """
    found: dict[int, list[Turn]] = {}
    bad: dict[int, str] = {}
    for number, row in rows:
        try:
            found[number] = render_turns(row, form.prompt, tokenizer, form.turns)
        except HycamError as error:
            bad[number] = passed_over(row, error, form)
    return found, bad


def passed_over(row: Mapping[str, Any], error: HycamError, form: Form) -> str:
    """What is wrong with a row, with its identity; raised where ``form`` does not say to skip it."""
    told = f"{row['row']}: {error}"
    if not form.skip_bad_rows:
        raise HycamError(told) from error
    return told


def render(example: Mapping[str, Any], style: str, tokenizer: PreTrainedTokenizerBase, thinks: bool = False) -> str:
    """The prompt of an example, up to where its response begins: the generation prompt.

    Args:
        example: has ``instruction`` and ``input`` (empty where there is none), and may have ``system``; for a chat also
            ``history``, or ``messages`` that end with what is asked.
        style: the ``prompt`` of :class:`Form`.
        tokenizer: its chat template is used by ``"chat"``.
        thinks: whether the response is to begin with a thought, where a chat template can do both.

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
    """The texts of an example: before each answer that is trained, and the answer.

    Args:
        example: ``instruction``, ``input``, ``response``, and where there are any ``system`` and ``history`` (a list of
            ``asked`` and ``answered``); or ``messages``, as ``load_task`` has them.
        style: the ``prompt`` of :class:`Form`.
        tokenizer: its chat template is used by ``"chat"``.
        turns: as in :class:`Form`.

    Raises:
        HycamError: ``"chat"`` with a tokenizer that has no chat template, or as :func:`hycam.data.chat.chat_turns`;
            another prompt with what only a chat has a place for, such as calls of tools.
    """
    if style == "chat":
        check_prompt("chat", tokenizer)
        return chat_turns(conversation_of(example), tokenizer, turns)
    if example.get("messages"):
        return _of_messages(conversation_of(example), style, tokenizer)
    found = []
    system = example.get("system") or ""
    for turn in example["history"]:
        found.append(Turn(_before(style, turn["asked"], "", system, is_first=not found), turn["answered"]))
        system = ""
    given = example["input"] if example["input"].strip() else ""
    before = _before(style, example["instruction"], given, system, is_first=not found)
    return [*found, Turn(before, example["response"])]


def _of_messages(conversation: Chat, style: str, tokenizer: PreTrainedTokenizerBase) -> list[Turn]:
    """Questions and answers in turn; an answer that is not trained is part of what stands before the next one."""
    said = conversation.messages
    system = said[0]["content"] if said[0]["role"] == "system" else ""
    said = said[1:] if system else said
    lacking = conversation.tools or any(set(message) - {"role", "content", "weight", "name"} for message in said)
    roles = [message["role"] for message in said]
    if lacking or roles != ["user", "assistant"] * (len(roles) // 2):
        raise HycamError(
            f'The prompt "{style}" has a place for questions and answers in turn, and for nothing else that a '
            'conversation may have (thoughts, tools, two messages of one side in a row). Use the prompt "chat".'
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
    """What stands before one answer."""
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
    # In one pass, so that braces in a row's own text stay what they are.
    return _FIELD.sub(lambda match: values[match[1]], template)
