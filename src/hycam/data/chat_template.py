"""What a tokenizer's chat template makes of a conversation."""

from __future__ import annotations

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from hycam.data.conversation import Chat, Message
from hycam.errors import HycamError

# Some templates write today's date. The same row would be other tokens tomorrow, so it is always the day that Llama's
# own template falls back to. They get it as a variable, or ask a function, in whose place a macro stands.
_DAY = "26 Jul 2024"
_NO_CLOCK = f"{{% macro strftime_now(form) %}}{_DAY}{{% endmacro %}}"
_ANSWER = "answer"


def written(tokenizer: PreTrainedTokenizerBase, conversation: Chat, thinks: bool, opening: bool = False) -> str:
    """A conversation as the template writes it; with ``opening`` up to where it has an answer begin.

    Args:
        tokenizer: its template.
        conversation: what was said.
        thinks: whether the answer begins with a thought. A template that can do both (Qwen3's) is told.
        opening: whether an answer is asked for.

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
    except Exception as error:  # a template is a program: it may raise anything, and on purpose
        said = f"{error}".strip().rstrip(".") or type(error).__name__
        raise HycamError(
            f"The chat template of {called(tokenizer)} refuses a conversation ({said}). Leave out what it does not "
            'take, such as the system text, or use the prompt "alpaca".'
        ) from error


def generation_prompt(tokenizer: PreTrainedTokenizerBase, asked: Chat, thinks: bool) -> str:
    """What stands before an answer to ``asked``, to the last character.

    It is what the template writes when it is asked for an answer, and with it what it writes before any answer
    without a thought: the line that opens an answer, where it writes that only together with one, or an empty thought.
    Blanks right before the answer are the answer's: a model that is asked has to write them.

    Raises:
        HycamError: the template refuses the conversation.
    """
    opened = written(tokenizer, asked, thinks, opening=True)
    if thinks and "add_generation_prompt" in str(tokenizer.get_chat_template(tools=asked.tools)):
        return opened  # the thought itself is the answer's
    answered = written(tokenizer, asked.up_to(len(asked.messages), _said("assistant", _ANSWER)), thinks)
    if not answered.startswith(opened):
        return opened
    before = answered[len(opened) :].rpartition(_ANSWER)[0]
    return opened + before.rstrip(" ")


def end_token(tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """What ends an answer: in a chat the token that the template puts there, else the tokenizer's end token."""
    if style != "chat" or not tokenizer.chat_template:
        return str(tokenizer.eos_token)
    return _chat_end(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _chat_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """``template`` is there for the cache alone: another one may end an answer in another way."""
    said = Chat([_said("user", "question"), _said("assistant", _ANSWER)])
    try:
        behind = written(tokenizer, said, thinks=False).rpartition(_ANSWER)[2].lstrip()
    except HycamError:
        behind = ""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return max((token for token in added if behind.startswith(token)), key=len, default=str(tokenizer.eos_token))


def called(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
