"""A conversation as a tokenizer's chat template writes it, cut at the trained answers.

The turns, with the end token after each answer, are the template's own text of the conversation up to the last answer.
If the template would write the last answer differently from how it asks for it (by removing a thought, say), they are
the generation prompt and the answer instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from hycam.data.conversation import THOUGHT, THOUGHT_END, Chat, Message, is_thoughtful, said
from hycam.data.recipe import Turns
from hycam.errors import HycamError

# Some templates write today's date, and tomorrow the same row would have other tokens. So the date is always the
# default of Llama's template: passed as a variable, and returned by a macro that replaces the function they may call.
_DAY = "26 Jul 2024"
_NO_CLOCK = f"{{% macro strftime_now(form) %}}{_DAY}{{% endmacro %}}"
_ANSWER = "answer"


class Turn(NamedTuple):
    """The text since the previous answer, and an answer, without the end token that follows it."""

    before: str
    answer: str


def chat_turns(conversation: Chat, tokenizer: PreTrainedTokenizerBase, turns: Turns) -> list[Turn]:
    """The trained answers of a conversation, each with the text before it.

    Args:
        conversation: has at least one trained answer; messages after the last one are ignored.
        tokenizer: its chat template writes the conversation.
        turns: ``"last"`` gives the last answer only, so the template may change the earlier ones.

    Raises:
        HycamError: the template refuses the conversation, drops a part of it, changes earlier answers, or opens a
            thought although the answer has none.
    """
    answers = conversation.trained()
    if not answers:
        raise no_trained_answer()
    last = answers[-1]
    end = end_token(tokenizer, "chat")
    asked, message = conversation.up_to(last), conversation.messages[last]
    conversation = conversation.up_to(last, message)
    thinks = is_thoughtful(message)
    text = written(tokenizer, conversation, thinks)
    _check_kept(text, conversation, tokenizer, thinks)
    opened = generation_prompt(tokenizer, asked, thinks)
    begins_thought = message["content"].lstrip().startswith(THOUGHT)
    if (
        begins_thought and not thinks and opened.rstrip().endswith((THOUGHT, THOUGHT_END))
    ):  # the tag would be there twice
        raise HycamError(
            f"The answer begins with {THOUGHT} but has no {THOUGHT_END}. Add it after the thought, or remove the row."
        )
    answer = _answer(text, opened, message, end)
    if answer is None:
        answer = _composed(opened, message, tokenizer)
    elif _opens_thought(opened) and not thinks:
        raise _thought_missing(tokenizer)
    text = opened + answer + end
    found: list[Turn] = []
    done = 0
    for number in answers[:-1] if turns == "all" else ():
        begin, earlier = _earlier(opened, conversation, number, tokenizer, end)
        found.append(Turn(text[done:begin], earlier))
        done = begin + len(earlier) + len(end)
    return [*found, Turn(text[done : len(opened)], answer)]


def written(tokenizer: PreTrainedTokenizerBase, conversation: Chat, thinks: bool, opening: bool = False) -> str:
    """A conversation as the template writes it.

    Args:
        tokenizer: its template.
        conversation: what was said.
        thinks: whether the answer begins with a thought, for templates that support both (Qwen3's).
        opening: whether to end with the prompt of the next answer.

    Raises:
        HycamError: the template refuses the conversation.
    """
    messages = [{key: value for key, value in message.items() if key != "weight"} for message in conversation.messages]
    try:
        template = str(tokenizer.get_chat_template(tools=conversation.tools))
        return str(
            tokenizer.apply_chat_template(
                messages,
                tools=conversation.tools,
                chat_template=_NO_CLOCK + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=opening,
                date_string=_DAY,
                enable_thinking=thinks,
            )
        )
    except Exception as error:  # a template is a program, which may raise anything, also on purpose
        reason = f"{error}".strip().rstrip(".") or type(error).__name__
        raise HycamError(
            f"The chat template of {called(tokenizer)} refuses a conversation ({reason}). Remove what it does not "
            'support, such as the system text, or use the prompt "alpaca".'
        ) from error


def generation_prompt(tokenizer: PreTrainedTokenizerBase, asked: Chat, thinks: bool) -> str:
    """The exact text before an answer to ``asked``.

    It is the template's generation prompt, and whatever else the template writes before any answer without a thought:
    the line that opens an answer, if it writes that only together with one, or an empty thought. Blanks right before
    the answer belong to the answer: the model has to generate them.

    Raises:
        HycamError: the template refuses the conversation.
    """
    opened = written(tokenizer, asked, thinks, opening=True)
    if thinks and "add_generation_prompt" in str(tokenizer.get_chat_template(tools=asked.tools)):
        return opened  # the thought itself belongs to the answer
    answered = written(tokenizer, asked.up_to(len(asked.messages), said("assistant", _ANSWER)), thinks)
    if not answered.startswith(opened):
        return opened
    before = answered[len(opened) :].rpartition(_ANSWER)[0]
    return opened + before.rstrip(" ")


def end_token(tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """The token that ends an answer: in a chat the template's, else the tokenizer's end token."""
    if style != "chat" or not tokenizer.chat_template:
        return str(tokenizer.eos_token)
    return _chat_end(tokenizer, str(tokenizer.chat_template))


def called(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")


def no_trained_answer() -> HycamError:
    return HycamError("No answer of the conversation is trained: all have weight 0. Remove the row.")


@lru_cache(maxsize=4)
def _chat_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """``template`` is only part of the cache's key: a tokenizer may be given another one."""
    talk = Chat([said("user", "question"), said("assistant", _ANSWER)])
    try:
        behind = written(tokenizer, talk, thinks=False).rpartition(_ANSWER)[2].lstrip()
    except HycamError:
        behind = ""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return max((token for token in added if behind.startswith(token)), key=len, default=str(tokenizer.eos_token))


def _earlier(
    text: str, conversation: Chat, number: int, tokenizer: PreTrainedTokenizerBase, end: str
) -> tuple[int, str]:
    """Where in ``text`` an earlier answer begins, and the answer."""
    message = conversation.messages[number]
    thinks = is_thoughtful(message)
    # A template may write the empty thought of its generation prompt before the last answer only. The earlier answers
    # then follow the generation prompt for an answer with a thought.
    for either in (thinks, not thinks):
        opened = generation_prompt(tokenizer, conversation.up_to(number), either)
        answer = _answer(text, opened, message, end)
        if answer is not None and (thinks or not _opens_thought(opened)):
            return len(opened), answer
    raise HycamError(
        f"The chat template of {called(tokenizer)} does not keep the earlier answers of a conversation as they are, "
        f"each followed by {end}, so they cannot be trained. Train the last answer only (turns: last), or use the "
        'prompt "alpaca".'
    )


def _answer(text: str, opened: str, message: Message, end: str) -> str | None:
    """The text between ``opened`` and the end token if it is the whole answer, else None.

    The template may strip the answer, and add text around it.
    """
    if not text.startswith(opened):
        return None
    behind = text[len(opened) :]
    # The answer contains all of these, in any order.
    parts = [message.get("reasoning_content", "").strip(), message["content"].strip()]
    for call in message.get("tool_calls") or ():
        parts += [call["function"]["name"], *call["function"]["arguments"]]
    until = 0
    for part in parts:
        at = behind.find(part)
        if at < 0 or end in behind[:at]:
            return None
        until = max(until, at + len(part))
    place = behind.find(end, until)
    if place < 0 or (is_thoughtful(message) and _thinks_twice(opened, behind[:place], message)):
        return None
    return behind[:place]


def _thinks_twice(opened: str, answer: str, message: Message) -> bool:
    """Whether the template opens a thought of its own in addition to the one in the answer."""
    own = f"{message.get('reasoning_content', '')}{message['content']}".count(THOUGHT)
    return answer.count(THOUGHT) + _opens_thought(opened) > max(1, own)


def _composed(opened: str, message: Message, tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer to put right after ``opened`` if the template would write it differently."""
    reasoning, content = message.get("reasoning_content", "").strip(), message["content"]
    if message.get("tool_calls"):
        raise HycamError(
            f"The chat template of {called(tokenizer)} drops a part of an answer that calls tools, or does not "
            "continue its own generation prompt with it. Remove such rows, or give the tokenizer a template that does "
            "(chat_template.jinja)."
        )
    if not _opens_thought(opened):
        if reasoning:
            raise HycamError(
                f"The chat template of {called(tokenizer)} has no place for reasoning_content. Write the thought into "
                f"the answer itself, between {THOUGHT} and {THOUGHT_END}, or remove it."
            )
        return str(content)
    if not reasoning and THOUGHT_END not in content:
        raise _thought_missing(tokenizer)
    line = "" if opened.endswith("\n") else "\n"
    if reasoning:
        return f"{line}{reasoning}\n{THOUGHT_END}\n\n{content}"
    begun = content.lstrip()
    return line + begun.removeprefix(THOUGHT).lstrip("\n") if begun.startswith(THOUGHT) else str(content)


def _opens_thought(opened: str) -> bool:
    return opened.rstrip().endswith(THOUGHT)


def _thought_missing(tokenizer: PreTrainedTokenizerBase) -> HycamError:
    return HycamError(
        f"The chat template of {called(tokenizer)} begins every answer with a thought ({THOUGHT}), and this one has "
        f"none. Add one (reasoning_content, or before {THOUGHT_END} in the answer), give the tokenizer a template "
        'without thoughts (chat_template.jinja), or use the prompt "alpaca".'
    )


def _check_kept(text: str, conversation: Chat, tokenizer: PreTrainedTokenizerBase, thinks: bool) -> None:
    """Raises HycamError if the template drops tools, calls of them, or their output."""
    messages, tools = conversation
    without_arguments = [{**message, "tool_calls": _bare_calls(message)} if message.get("tool_calls") else message
                         for message in messages]  # fmt: skip
    silent = [{**message, "content": ""} if message["role"] == "tool" else message for message in messages]
    others = {
        "the tools of a conversation": Chat(messages),
        "the calls of tools in a conversation": Chat(without_arguments, tools),
        "the output of tools in a conversation": Chat(silent, tools),
    }
    for what, other in others.items():
        if other == conversation:
            continue
        try:
            is_dropped = written(tokenizer, other, thinks) == text
        except HycamError:
            is_dropped = False  # it uses what is now missing
        if is_dropped:
            raise HycamError(
                f"The chat template of {called(tokenizer)} drops {what}. Give the tokenizer a template that "
                "supports them (chat_template.jinja), or remove such rows."
            )


def _bare_calls(message: Message) -> list[Message]:
    return [{**call, "function": {**call["function"], "arguments": dict.fromkeys(call["function"]["arguments"])}}
            for call in message["tool_calls"]]  # fmt: skip
