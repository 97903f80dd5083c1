"""The text that stands before the response.

A line end between the prompt's last marker and the response belongs to the prompt: the first token that is trained,
and that a model generates, is the response's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from hycam.data.recipe import Turns
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


# Some templates write today's date. The same row would be other tokens tomorrow, so it is always the day that Llama's
# own template falls back to. They get it as a variable, or ask a function, in whose place a macro stands.
_DAY = "26 Jul 2024"
_NO_CLOCK = f"{{% macro strftime_now(form) %}}{_DAY}{{% endmacro %}}"


class Turn(NamedTuple):
    """What stands before an answer, and the answer; an end token follows it."""

    before: str
    answer: str


def check_prompt(style: str, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raises HycamError where a prompt is neither one of ``STYLES`` nor a template, or ``tokenizer`` cannot make it."""
    if style not in STYLES and "{instruction}" not in style:
        raise HycamError(
            f'There is no prompt "{style}": {", ".join(STYLES)}, or a template with {{instruction}} and, if wanted, '
            f"{{input}} and {{system}} in it were expected.{nearest(style, STYLES)}"
        )
    if style == "chat" and tokenizer is not None and not tokenizer.chat_template:
        raise HycamError(
            f'The prompt "chat" needs a chat template, and {_called(tokenizer)} has none. '
            'Use the prompt "alpaca", or a backbone that was tuned for chat.'
        )


def render(example: Mapping[str, Any], style: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt of an example without a history, up to where its response begins.

    Args:
        example: has ``instruction`` and ``input`` (empty where there is none), and may have ``system``.
        style: see :func:`render_turns`.
        tokenizer: its chat template is used by ``"chat"``.

    Raises:
        HycamError: as :func:`render_turns`.
    """
    # Whatever the answer, the same stands before it; a template may refuse an empty one.
    (only,) = render_turns({**example, "response": "answer", "history": ()}, style, tokenizer)
    return only.before


def render_turns(
    example: Mapping[str, Any], style: str, tokenizer: PreTrainedTokenizerBase, turns: Turns = "all"
) -> list[Turn]:
    """The texts of an example that are tokenised apart: before each answer, and the answer.

    Args:
        example: ``instruction``, ``input``, ``response``, and where there are any ``system`` and ``history`` (a list of
            ``asked`` and ``answered``).
        style: ``"alpaca"``: the Stanford Alpaca form, with or without the input part, later turns without its preamble;
            the tokenizer's own special tokens still have to be added. ``"paper"``: the same without the last line end,
            as the released code of the paper has it. ``"chat"``: the tokenizer's chat template, the input below the
            instruction; special tokens are in the text already, and an answer is what the template makes of it.
            Anything else is a template: each turn is the template with ``{instruction}``, ``{input}`` and ``{system}``
            put in; what it has no place for goes before (system) or below (input) the instruction.
        tokenizer: its chat template is used by ``"chat"``.
        turns: ``"last"`` gives a chat as one turn, so that the template may shorten the earlier ones.

    Raises:
        HycamError: ``"chat"`` with a tokenizer that has no chat template, or whose template refuses the conversation or
            changes earlier turns of it.
    """
    if style == "chat":
        return _chat(example, tokenizer, turns)
    asked = [turn["asked"] for turn in example["history"]] + [example["instruction"]]
    answers = [turn["answered"] for turn in example["history"]] + [example["response"]]
    system, given = example.get("system") or "", example["input"] if example["input"].strip() else ""
    inputs = ["" for _ in example["history"]] + [given]
    found = []
    for number, (instruction, input_, answer) in enumerate(zip(asked, inputs, answers, strict=True)):
        is_first = number == 0
        before = _turn(style, instruction, input_, system if is_first else "", is_first)
        found.append(Turn(before, answer))
    return found


def _turn(style: str, instruction: str, given: str, system: str, is_first: bool) -> str:
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


def _chat(example: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, turns: Turns) -> list[Turn]:
    check_prompt("chat", tokenizer)
    given = f"\n\n{example['input']}" if example["input"].strip() else ""
    system = example.get("system")
    said = [{"role": "system", "content": system}] if system else []
    for turn in example["history"]:
        said += [{"role": "user", "content": turn["asked"]}, {"role": "assistant", "content": turn["answered"]}]
    said += [{"role": "user", "content": example["instruction"] + given}]
    said += [{"role": "assistant", "content": example["response"]}]
    whole = _templated(tokenizer, said)
    end = end_token(tokenizer, "chat")
    answers = [number for number, message in enumerate(said) if message["role"] == "assistant"]
    found: list[Turn] = []
    passed = ""  # all text up to the end token of the answer before, with it
    for number in answers if turns == "all" else answers[-1:]:
        opened, answer = _templated(tokenizer, said[:number], opening=True), said[number]["content"]
        written = _written(whole[len(opened) :], answer, end) if whole.startswith(opened) else None
        if not opened.startswith(passed) or (written is None and number != answers[-1]):
            raise HycamError(
                f"The chat template of {_called(tokenizer)} does not keep the earlier answers of a conversation as "
                f"they are, each with {end} behind it, so they cannot be trained. Train the last answer only "
                '(turns: last), or use the prompt "alpaca".'
            )
        before, answer = written or ("", answer)  # a template that writes no answers as it asks for them
        found.append(Turn(opened[len(passed) :] + before, answer))
        passed = opened + before + answer + end
    return found


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], opening: bool = False) -> str:
    """A conversation as the template writes it; with ``opening`` up to where an answer begins."""
    try:
        template = str(tokenizer.get_chat_template())
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=_NO_CLOCK + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=opening,
                date_string=_DAY,
            )
        )
    except Exception as error:  # a template is a program: it may raise anything, and on purpose
        said = f"{error}".strip().rstrip(".") or type(error).__name__
        raise HycamError(
            f"The chat template of {_called(tokenizer)} refuses a conversation ({said}). Leave out what it does not "
            'take, such as the system text, or use the prompt "alpaca".'
        ) from error


def _written(text: str, answer: str, end: str) -> tuple[str, str] | None:
    """What stands before an answer and the answer, in ``text`` that begins with them, up to the end token; or None.

    Blanks right before the answer, and white space behind it, are the answer's: a model that is asked has to write
    them. A template may strip an answer.
    """
    place = text.find(end)
    while place >= 0:
        for wanted in (answer, answer.strip()):
            start = text.rfind(wanted, 0, place)
            if start >= 0 and not text[start + len(wanted) : place].strip() and end not in text[:start]:
                start = len(text[:start].rstrip(" "))
                return text[:start], text[start:place]
        place = text.find(end, place + 1)
    return None


def end_token(tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """What ends an answer: in a chat the token that the template puts there, else the tokenizer's end token."""
    if style != "chat" or not tokenizer.chat_template:
        return str(tokenizer.eos_token)
    return _chat_end(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _chat_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """``template`` is there for the cache alone: another one may end an answer in another way."""
    said = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        behind = _templated(tokenizer, said).rpartition("answer")[2].lstrip()
    except HycamError:
        behind = ""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return max((token for token in added if behind.startswith(token)), key=len, default=str(tokenizer.eos_token))


def _called(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")
