"""Chat templates in the manner of well-known families: their marks and rules, as short as they can be.

Each comes with the special tokens that it needs.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    template: str
    special: tuple[str, ...] = ()
    end: str = "</s>"
    swallows: bool = False  # whether special tokens take up the white space behind them


# A system text goes into the first question; nothing asks for an answer, before and behind which a blank stands.
LLAMA_2 = Family(
    "{% if messages[0].role == 'system' %}{% set first = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}"
    "{% set said = messages[1:] %}{% else %}{% set first = '' %}{% set said = messages %}{% endif %}"
    "{% for m in said %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ (first if loop.first else '') }}"
    "{{ m.content | trim ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)
# As Llama 2, but with marks that are tokens and one begin token.
MISTRAL = Family(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content ~ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}",
    ("[INST]", "[/INST]"),
)
PHI_3 = Family(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    "<|end|>",
    swallows=True,
)
GEMMA = Family(
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ("<start_of_turn>", "<end_of_turn>"),
    "<end_of_turn>",
)
CHATML = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
    "<|im_end|>",
)
_LLAMA_HEADER = "{{ '<|start_header_id|>' ~ (%s) ~ '<|end_header_id|>\n\n' }}"
LLAMA_3_1 = Family(
    "{{ bos_token }}{% for m in messages %}{% if m.tool_calls %}"
    + _LLAMA_HEADER % "'assistant'"
    + "{% set f = m.tool_calls[0].function %}"
    '{{ \'{"name": "\' ~ f.name ~ \'", "parameters": \' ~ f.arguments | tojson ~ "}<|eot_id|>" }}'
    "{% elif m.role == 'tool' %}"
    + _LLAMA_HEADER % "'ipython'"
    + "{{ m.content | tojson ~ '<|eot_id|>' }}{% else %}"
    + _LLAMA_HEADER % "m.role"
    + "{% if tools and loop.first %}{% for t in tools %}{{ t | tojson(indent=4) ~ '\n\n' }}{% endfor %}{% endif %}"
    "{{ m.content | trim ~ '<|eot_id|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    + _LLAMA_HEADER % "'assistant'"
    + "{% endif %}",
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
)
# The thoughts of answers before the last question are taken out; the last answer has one, if an empty one, and a prompt
# has an empty one where none is wanted.
QWEN_3 = Family(
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson ~ '\n' }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% set asked = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set asked.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ m.content }}\n</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{% set text = m.content %}"
    "{% if m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}"
    "{% if not thought and '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > asked.last and (loop.last or thought) %}"
    "{{ '<think>\n' ~ thought ~ '\n</think>\n\n' }}{% endif %}{% endif %}"
    "{{ text }}{% for c in m.tool_calls or [] %}{{ '\n' if text }}<tool_call>\n"
    '{{ \'{"name": "\' ~ c.function.name ~ \'", "arguments": \' ~ c.function.arguments | tojson ~ "}" }}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    "<|im_end|>",
)
# Whatever is asked, a thought is opened; an answer is written without its thought.
R1 = Family(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] ~ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    ("<|User|>", "<|Assistant|>", "<think>", "</think>"),
)
FAMILIES = {
    "llama-2": LLAMA_2,
    "mistral": MISTRAL,
    "phi-3": PHI_3,
    "gemma": GEMMA,
    "chatml": CHATML,
    "llama-3.1": LLAMA_3_1,
    "qwen-3": QWEN_3,
}
"""Those that write an answer as they ask for it."""
