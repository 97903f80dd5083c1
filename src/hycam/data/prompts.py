"""The text that stands before the response.

The line end between the prompt's last marker and the response belongs to the prompt: the first token that is trained,
and that a model generates, is the response's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from transformers import PreTrainedTokenizerBase

from hycam.errors import HycamError

PromptStyle = Literal["alpaca", "chat"]

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


def render(example: Mapping[str, str], style: PromptStyle, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt of one example, up to where its response begins.

    Args:
        example: has ``instruction`` and ``input`` (empty where there is none).
        style: ``"alpaca"``: the Stanford Alpaca form, with or without the input part; the tokenizer's own special
            tokens still have to be added. ``"chat"``: the tokenizer's chat template with one message of the user
            (instruction, blank line, input) and the opening of the answer; special tokens are in the text already.
        tokenizer: its chat template is used by ``"chat"``.

    Raises:
        HycamError: ``"chat"`` with a tokenizer that has no chat template.
    """
    has_input = bool(example["input"].strip())
    if style == "alpaca":
        template = _WITH_INPUT if has_input else _WITHOUT_INPUT
        return template.format(instruction=example["instruction"], input=example["input"])
    if not tokenizer.chat_template:
        raise HycamError(
            f'The prompt "chat" needs a chat template, and {tokenizer.name_or_path or "the tokenizer"} has none. '
            'Use the prompt "alpaca", or a backbone that was tuned for chat.'
        )
    content = f"{example['instruction']}\n\n{example['input']}" if has_input else example["instruction"]
    message = [{"role": "user", "content": content}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
