"""A conversation cut into what stands before each trained answer and that answer, as the chat template writes them.

The pieces with the end token behind each answer are the template's own text of the conversation, up to the last of
them. Only where the template writes the last answer in another way than it asks for it (a thought is taken out, say),
they are the generation prompt and the answer.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hycam.data.chat_template import called, end_token, generation_prompt, written
from hycam.data.conversation import THOUGHT, THOUGHT_END, Chat, Message, is_thoughtful
from hycam.data.recipe import Turns
from hycam.errors import HycamError


def chat_pieces(conversation: Chat, tokenizer: PreTrainedTokenizerBase, turns: Turns) -> list[tuple[str, str]]:
    """The text before each trained answer, from the end of the one before, and the answer without its end token.

    Args:
        conversation: has at least one answer that is trained; what follows the last one is left out.
        tokenizer: its chat template writes the conversation.
        turns: ``"last"`` gives the last answer alone, so that the template may shorten the earlier ones.

    Raises:
        HycamError: the template refuses the conversation, drops a part of it, changes earlier answers of it, or opens a
            thought where the answer has none.
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
    is_begun = message["content"].lstrip().startswith(THOUGHT)
    if is_begun and not thinks and opened.rstrip().endswith((THOUGHT, THOUGHT_END)):  # it would be there twice
        raise HycamError(
            f"The answer begins with {THOUGHT}, and no {THOUGHT_END} ends the thought. Put it there, or leave the row "
            "out."
        )
    answer = _answer(text, opened, message, end)
    if answer is None:
        answer = _composed(opened, message, tokenizer)
    elif _opens_thought(opened) and not thinks:
        raise _thoughtless(tokenizer)
    text = opened + answer + end
    found: list[tuple[str, str]] = []
    passed = 0
    for number in answers[:-1] if turns == "all" else ():
        begin, earlier = _earlier(text[: len(opened)], conversation, number, tokenizer, end)
        found.append((text[passed:begin], earlier))
        passed = begin + len(earlier) + len(end)
    return [*found, (text[passed : len(opened)], answer)]


def no_trained_answer() -> HycamError:
    return HycamError("No answer of the conversation is trained: all have weight 0. Leave it out.")


def _earlier(
    text: str, conversation: Chat, number: int, tokenizer: PreTrainedTokenizerBase, end: str
) -> tuple[int, str]:
    """Where in ``text`` an earlier answer begins, and the answer."""
    message = conversation.messages[number]
    thinks = is_thoughtful(message)
    # A template may write the empty thought that it asks with before the last answer alone: the earlier ones then begin
    # where it asks for one with a thought.
    for either in (thinks, not thinks):
        opened = generation_prompt(tokenizer, conversation.up_to(number), either)
        answer = _answer(text, opened, message, end)
        if answer is not None and (thinks or not _opens_thought(opened)):
            return len(opened), answer
    raise HycamError(
        f"The chat template of {called(tokenizer)} does not keep the earlier answers of a conversation as they are, "
        f"each with {end} behind it, so they cannot be trained. Train the last answer only (turns: last), or use the "
        'prompt "alpaca".'
    )


def _answer(text: str, opened: str, message: Message, end: str) -> str | None:
    """What is written between ``opened`` and an end token, where that is the whole answer; else None.

    The template may strip the answer, and write more around it than the row has.
    """
    if not text.startswith(opened):
        return None
    behind = text[len(opened) :]
    until = 0
    for part in _parts(message):
        at = behind.find(part)
        if at < 0 or end in behind[:at]:
            return None
        until = max(until, at + len(part))
    place = behind.find(end, until)
    if place < 0 or (is_thoughtful(message) and _thinks_twice(opened, behind[:place], message)):
        return None
    return behind[:place]


def _thinks_twice(opened: str, answer: str, message: Message) -> bool:
    """Whether the template opens a thought of its own beside that which stands in the text of an answer."""
    own = f"{message.get('reasoning_content', '')}{message['content']}".count(THOUGHT)
    return answer.count(THOUGHT) + _opens_thought(opened) > max(1, own)


def _parts(message: Message) -> list[str]:
    """What the text of an answer has in it, in whichever order."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    names = [word for call in calls for word in (call["name"], *call["arguments"])]
    return [message.get("reasoning_content", "").strip(), message["content"].strip(), *names]


def _composed(opened: str, message: Message, tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer of a row, to stand right behind ``opened``, where the template would write it otherwise."""
    reasoning, content = message.get("reasoning_content", "").strip(), message["content"]
    if message.get("tool_calls"):
        raise HycamError(
            f"The chat template of {called(tokenizer)} leaves out a part of an answer that calls tools, or does not "
            "write it as it asks for one. Leave such rows out, or give the tokenizer a template that does "
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
        raise _thoughtless(tokenizer)
    line = "" if opened.endswith("\n") else "\n"
    if reasoning:
        return f"{line}{reasoning}\n{THOUGHT_END}\n\n{content}"
    begun = content.lstrip()
    return line + begun.removeprefix(THOUGHT).lstrip("\n") if begun.startswith(THOUGHT) else str(content)


def _opens_thought(opened: str) -> bool:
    return opened.rstrip().endswith(THOUGHT)


def _thoughtless(tokenizer: PreTrainedTokenizerBase) -> HycamError:
    return HycamError(
        f"The chat template of {called(tokenizer)} has every answer begin with a thought ({THOUGHT}), and this one has "
        f"none. Give it one (reasoning_content, or before {THOUGHT_END} in the answer), give the tokenizer a template "
        'without thoughts (chat_template.jinja), or use the prompt "alpaca".'
    )


def _check_kept(text: str, conversation: Chat, tokenizer: PreTrainedTokenizerBase, thinks: bool) -> None:
    """Raises HycamError where the template leaves out tools, what calls them, or what they put out."""
    messages, tools = conversation
    calls = [message for message in messages if message.get("tool_calls")]
    others: dict[str, Chat] = {}
    if tools:
        others["the tools of a conversation"] = Chat(messages)
    if any(call["function"]["arguments"] for message in calls for call in message["tool_calls"]):
        others["the calls of tools in a conversation"] = Chat([*map(_without_arguments, messages)], tools)
    if any(message["role"] == "tool" and message["content"] for message in messages):
        silent = [{**message, "content": ""} if message["role"] == "tool" else message for message in messages]
        others["what tools put out in a conversation"] = Chat(silent, tools)
    for what, other in others.items():
        try:
            is_dropped = written(tokenizer, other, thinks) == text
        except HycamError:
            is_dropped = False  # it looks at what it now misses
        if is_dropped:
            raise HycamError(
                f"The chat template of {called(tokenizer)} leaves out {what}. Give the tokenizer a template that has a "
                "place for them (chat_template.jinja), or leave such rows out."
            )


def _without_arguments(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": dict.fromkeys(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}
