"""Rows of conversations as ``load_task`` gives them, and what a template makes of them without our code."""

from __future__ import annotations

import json
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from chat_templates import Family
from chat_tokenizers import chat_tokenizer
from hycam.data.encode import encode
from hycam.data.prompts import Form
from hycam.labelled import IGNORED

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Today's weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
_TEXTS = ("row", "group", "instruction", "input", "response", "system", "part", "messages")
_FEATURES = datasets.Features(
    {
        **dict.fromkeys(_TEXTS, datasets.Value("string")),
        "history": [{"asked": datasets.Value("string"), "answered": datasets.Value("string")}],
    }
)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def tool(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "a1", "name": "weather", "content": content}


def messages_row(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> datasets.Dataset:
    """One row that has the whole conversation in its column ``messages``."""
    texts = {**dict.fromkeys(_TEXTS, ""), "row": "a.jsonl:1", "history": []}
    texts["messages"] = json.dumps({"messages": messages, "tools": tools})
    return datasets.Dataset.from_list([texts], features=_FEATURES)


def plain_row(*said: str, system: str = "") -> datasets.Dataset:
    """One row of questions and answers in turn."""
    pairs = list(zip(said[::2], said[1::2], strict=True))
    texts = {**dict.fromkeys(_TEXTS, ""), "row": "a.jsonl:1", "system": system}
    texts |= {"instruction": pairs[-1][0], "response": pairs[-1][1]}
    history = [{"asked": asked, "answered": answered} for asked, answered in pairs[:-1]]
    return datasets.Dataset.from_list([{**texts, "history": history}], features=_FEATURES)


def tokenizer_of(family: Family, kind: str, begin: bool = True) -> PreTrainedTokenizerFast:
    return chat_tokenizer(kind, family.template, family.special, begin, family.swallows)


def encoded(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, **form: Any) -> dict[str, Any]:
    (row,) = encode(dataset, tokenizer, Form(**{"prompt": "chat", "max_length": 4000, **form})).dataset
    return row


def template_ids(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    """Token ids as transformers makes them, with the generation prompt where ``more`` asks for it."""
    return tokenizer.apply_chat_template(messages, date_string="26 Jul 2024", return_dict=True, **more)["input_ids"]


def trained(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Every stretch of tokens with a loss, as text."""
    found: list[list[int]] = []
    before = IGNORED
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (token, IGNORED)
        if label != IGNORED:
            if before == IGNORED:
                found.append([])
            found[-1].append(label)
        before = label
    return [tokenizer.decode(ids) for ids in found]


def turns_of(talk: dict[str, Any]) -> list[tuple[str, str]]:
    """The questions and answers of what ``hycam.data.messages.conversation`` gives."""
    earlier = [(turn["asked"], turn["answered"]) for turn in talk["history"]]
    return [*earlier, (talk["instruction"], talk["response"])]
