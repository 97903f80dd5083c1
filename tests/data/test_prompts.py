from __future__ import annotations

import pytest

from hycam.data.prompts import render
from hycam.errors import HycamError

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_alpaca_has_the_input_part_only_where_there_is_an_input(tokenizer) -> None:
    without = render({"instruction": "Add {x}.", "input": " \n"}, "alpaca", tokenizer)
    with_input = render({"instruction": "Add {x}.", "input": "{2} 3"}, "alpaca", tokenizer)
    assert "### Input:" not in without and "paired with" not in without
    assert "\n\n### Instruction:\nAdd {x}.\n\n### Input:\n{2} 3\n\n### Response:\n" in with_input


def test_alpaca_ends_with_the_response_marker_and_one_line_end(tokenizer) -> None:
    for given in ("", "something"):
        assert render({"instruction": "Go.", "input": given}, "alpaca", tokenizer).endswith("\n\n### Response:\n")


def test_chat_uses_the_tokenizers_template_and_opens_the_answer(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATE
    assert render({"instruction": "Add.", "input": "2 3"}, "chat", tokenizer) == "<user>Add.\n\n2 3</s><assistant>"
    assert render({"instruction": "Add.", "input": ""}, "chat", tokenizer) == "<user>Add.</s><assistant>"


def test_chat_without_a_template_says_what_to_do(tokenizer) -> None:
    with pytest.raises(HycamError, match='Use the prompt "alpaca"'):
        render({"instruction": "Add.", "input": ""}, "chat", tokenizer)
