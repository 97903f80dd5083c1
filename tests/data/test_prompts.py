from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from byte_tokenizer import byte_tokenizer
from hycam.data.chat import end_token
from hycam.data.prompts import check_prompt, render, render_turns
from hycam.errors import HycamError

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{}\n\n### Response:\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n"
)

# The forms of well-known families, as short as they can be, each with the special tokens that it needs.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (  # it strips every text
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (  # no system, and its word for the assistant is another
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (  # nothing asks for an answer, and a blank stands before it
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (  # the line that opens an answer is there only where there is one
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
)
THINKING = (  # the last answer gets an empty thought, which is left out of the earlier ones
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') if m['role'] == 'assistant' and not loop.last "
    "else m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "llama-3": (LLAMA_3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"], "<|eot_id|>"),
    "gemma": (GEMMA, ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
    "mistral": (MISTRAL, ["[INST]", "[/INST]"], "</s>"),
    "zephyr": (ZEPHYR, ["<|user|>", "<|assistant|>"], "</s>"),
    "thinking": (THINKING, ["<|im_start|>", "<|im_end|>", "<|im_e"], "<|im_end|>"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def chat_tokenizer(family: str) -> PreTrainedTokenizerFast:
    template, tokens, _ = FAMILIES[family]
    tokenizer = byte_tokenizer("<s> $A")
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})  # type: ignore[dict-item]
    tokenizer.chat_template = template
    return tokenizer


def talk(*turns: tuple[str, str], system: str = "") -> dict[str, Any]:
    """A row out of questions and answers."""
    *history, (asked, answered) = turns
    return {
        "instruction": asked,
        "input": "",
        "response": answered,
        "system": system,
        "history": [{"asked": one, "answered": other} for one, other in history],
    }


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """The row as a template is given it, written once more."""
    said = [("system", row["system"])] if row["system"] else []
    for turn in [*row["history"], {"asked": row["instruction"], "answered": row["response"]}]:
        said += [("user", turn["asked"]), ("assistant", turn["answered"])]
    return [{"role": role, "content": content} for role, content in said]


THREE = talk(("One?", "1"), ("Two?", "two 2"), ("Three?", "3."))


class TestAlpaca:
    def test_has_the_input_part_only_where_there_is_an_input(self, tokenizer: PreTrainedTokenizerFast) -> None:
        without = render({"instruction": "Add {x}.", "input": " \n"}, "alpaca", tokenizer)
        assert without == WITHOUT_INPUT.format("Add {x}.")
        with_input = render({"instruction": "Add {x}.", "input": "{2} 3"}, "alpaca", tokenizer)
        assert with_input == WITH_INPUT.format("Add {x}.", "{2} 3")

    @pytest.mark.parametrize("given_text", ["", "something"])
    def test_paper_is_the_same_without_the_last_line_end(
        self, given_text: str, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        row = {"instruction": "Go.", "input": given_text}
        assert render(row, "paper", tokenizer) + "\n" == render(row, "alpaca", tokenizer)

    @pytest.mark.parametrize(("style", "end"), [("alpaca", "\n"), ("paper", "")])
    @pytest.mark.parametrize("turns", ["all", "last"])
    def test_later_turns_have_no_preamble(
        self, style: str, end: str, turns: Any, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        row = {**talk(("One?", "1"), ("Two?", "2")), "input": "2 3"}
        first, second = render_turns(row, style, tokenizer, turns)
        assert first == (WITHOUT_INPUT.format("One?").removesuffix("\n") + end, "1")
        assert second == (f"\n\n### Instruction:\nTwo?\n\n2 3\n\n### Response:{end}", "2")

    def test_a_system_text_stands_before_the_first_turn_alone(self, tokenizer: PreTrainedTokenizerFast) -> None:
        first, second = render_turns(talk(("One?", "1"), ("Two?", "2"), system="Be brief."), "alpaca", tokenizer)
        assert first.before == "Be brief.\n\n" + WITHOUT_INPUT.format("One?")
        assert "Be brief." not in second.before


class TestOwnTemplate:
    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{system}|{instruction}|{input}>", "S|I {input}|G>"),
            ("{instruction}|{input}>", "S\n\nI {input}|G>"),
            ("{system}|{instruction}>", "S|I {input}\n\nG>"),
            (
                "Q: {instruction} {other} {} {{}} {instruction}",
                "Q: S\n\nI {input}\n\nG {other} {} {{}} S\n\nI {input}\n\nG",
            ),
        ],
    )
    def test_has_every_text_once_for_each_place_of_it(
        self, template: str, expected: str, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        row = {"instruction": "I {input}", "input": "G", "system": "S"}
        assert render(row, template, tokenizer) == expected

    def test_is_written_anew_for_each_turn_with_the_system_text_in_the_first(
        self, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        row = {**talk(("One?", "1"), ("Two?", "2"), system="S"), "input": "G"}
        turns = render_turns(row, "<{system}>{instruction}<{input}>", tokenizer)
        assert turns == [("<S>One?<>", "1"), ("<>Two?<G>", "2")]

    @given(st.text(), st.text(), st.text())
    def test_leaves_braces_in_a_rows_own_texts_as_they_are(self, asked: str, given_text: str, system: str) -> None:
        row = {"instruction": asked, "input": given_text, "system": system}
        shown = render(row, "{system}\0{input}\0{instruction}", byte_tokenizer())
        assert shown == f"{system}\0{given_text if given_text.strip() else ''}\0{asked}"

    def test_without_an_instruction_is_refused_with_the_nearest_name(self) -> None:
        with pytest.raises(HycamError, match=r'no prompt "alpca".*\{instruction\}.*Did you mean "alpaca"\?'):
            check_prompt("alpca")
        with pytest.raises(HycamError, match="no prompt"):
            check_prompt("{input}")
        for known in ("alpaca", "paper", "chat", "{instruction}"):
            check_prompt(known)


class TestChat:
    @every_family
    def test_ends_an_answer_with_the_token_that_the_template_puts_there(self, family: str) -> None:
        assert end_token(chat_tokenizer(family), "chat") == FAMILIES[family][2]
        assert end_token(chat_tokenizer(family), "alpaca") == "</s>"

    def test_ends_with_the_tokenizers_own_end_where_the_template_puts_none(self) -> None:
        tokenizer = byte_tokenizer()
        for template in (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "{{ raise_exception('never') }}",
        ):
            tokenizer.chat_template = template
            assert end_token(tokenizer, "chat") == "</s>"

    def test_ends_with_an_added_token_also_where_it_is_not_called_special(self) -> None:
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([AddedToken("<|im_end|>", special=False)])
        tokenizer.chat_template = CHATML
        assert end_token(tokenizer, "chat") == "<|im_end|>"

    def test_another_template_may_end_in_another_way(self) -> None:
        tokenizer = chat_tokenizer("chatml")
        assert end_token(tokenizer, "chat") == "<|im_end|>"
        tokenizer.chat_template = MISTRAL
        assert end_token(tokenizer, "chat") == "</s>"
        tokenizer.chat_template = {"default": CHATML, "tool_use": MISTRAL}
        assert end_token(tokenizer, "chat") == "<|im_end|>"

    @pytest.mark.parametrize("turns", ["all", "last"])
    @every_family
    def test_pieces_and_end_tokens_are_the_templates_own_conversation(self, family: str, turns: Any) -> None:
        tokenizer, end = chat_tokenizer(family), FAMILIES[family][2]
        pieces = render_turns(THREE, "chat", tokenizer, turns)
        assert len(pieces) == (3 if turns == "all" else 1)
        whole = tokenizer.apply_chat_template(messages(THREE), tokenize=False)
        together = "".join(before + answer + end for before, answer in pieces)
        assert together == whole[: whole.rindex(end) + len(end)]
        assert [answer.lstrip(" ") for _, answer in pieces] == ["1", "two 2", "3."][-len(pieces) :]

    @every_family
    def test_what_is_generated_from_is_what_stands_before_a_trained_answer(self, family: str) -> None:
        tokenizer = chat_tokenizer(family)
        row = {**talk(("Sum?", " an answer \n")), "input": "2 3"}
        (only,) = render_turns(row, "chat", tokenizer)
        assert render({"instruction": "Sum?", "input": "2 3"}, "chat", tokenizer) == only.before
        assert "Sum?\n\n2 3" in only.before
        asked = tokenizer.apply_chat_template(messages(row)[:1], tokenize=False, add_generation_prompt=True)
        assert only.before.startswith(asked.replace("Sum?", "Sum?\n\n2 3"))

    def test_an_answer_is_trained_as_the_template_strips_it_or_with_its_blanks(self) -> None:
        row = talk(("Go.", "\n gone \n"))
        answers = {family: render_turns(row, "chat", chat_tokenizer(family))[0].answer for family in FAMILIES}
        assert answers["llama-3"] == answers["gemma"] == "gone"
        assert answers["chatml"] == answers["zephyr"] == answers["thinking"] == "\n gone \n"
        assert answers["mistral"] == " \n gone \n"

    def test_an_answer_with_the_end_token_in_it_is_whole(self) -> None:
        tokenizer = chat_tokenizer("chatml")
        row = talk(("One?", "a<|im_end|>a"), ("Two?", "a<|im_end|>"))
        assert [turn.answer for turn in render_turns(row, "chat", tokenizer)] == ["a<|im_end|>a", "a<|im_end|>"]

    def test_the_systems_text_goes_where_the_template_has_it(self) -> None:
        (only,) = render_turns(talk(("Go.", "Gone."), system="Be brief."), "chat", chat_tokenizer("chatml"))
        assert only.before.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGo.")

    @pytest.mark.parametrize(("family", "said"), [("gemma", "System role not supported"), ("mistral", "Only user and")])
    def test_a_template_that_refuses_a_system_text_is_quoted(self, family: str, said: str) -> None:
        row = talk(("Go.", "Gone."), system="Be brief.")
        with pytest.raises(HycamError, match=rf'refuses a conversation \({said}.*system text.*prompt "alpaca"'):
            render_turns(row, "chat", chat_tokenizer(family))

    @pytest.mark.parametrize(
        "template", ["{% for %}", "{{ messages[0]['content'] + 1 }}", "{{ 1 / 0 }}", "{{ a.b.c }}"]
    )
    def test_a_template_that_fails_in_any_way_is_an_error_for_people(
        self, template: str, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        tokenizer.chat_template = template
        with pytest.raises(HycamError, match="The chat template of the tokenizer refuses a conversation"):
            render_turns(THREE, "chat", tokenizer)

    @pytest.mark.parametrize(
        "template",
        [
            CHATML.replace("{{ m['content'] }}", "{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}"),
            CHATML.replace("for m in messages", "for m in messages[-2:]"),
            CHATML.replace("<|im_end|>\n{% endfor %}", "\n{% endfor %}"),
        ],
    )
    def test_a_template_that_rewrites_earlier_turns_gives_the_last_answer_alone(self, template: str) -> None:
        tokenizer = chat_tokenizer("chatml")
        tokenizer.chat_template = template
        with pytest.raises(HycamError, match=r"does not keep the earlier answers.*\(turns: last\)"):
            render_turns(THREE, "chat", tokenizer, "all")
        (only,) = render_turns(THREE, "chat", tokenizer, "last")
        assert only.answer == "3."
        assert only.before == tokenizer.apply_chat_template(
            messages(THREE)[:-1], tokenize=False, add_generation_prompt=True
        )

    def test_thoughts_that_are_taken_out_of_earlier_answers_are_refused_too(self) -> None:
        row = talk(("One?", "<think>\nhm\n</think>\n\n1"), ("Two?", "2"))
        with pytest.raises(HycamError, match="does not keep the earlier answers"):
            render_turns(row, "chat", chat_tokenizer("thinking"))
        assert render_turns(row, "chat", chat_tokenizer("thinking"), "last")[0].answer == "2"

    def test_an_answer_follows_what_asks_for_it_where_the_template_writes_answers_otherwise(self) -> None:
        tokenizer = chat_tokenizer("chatml")
        tokenizer.chat_template = CHATML.replace(
            "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\nSo: {% endif %}"
        )
        (only,) = render_turns(talk(("Go.", "Gone.")), "chat", tokenizer)
        assert only.before.endswith("<|im_start|>assistant\nSo: ") and only.answer == "Gone."

    def test_without_a_template_the_message_says_what_to_do(self, tokenizer: PreTrainedTokenizerFast) -> None:
        for attempt in (
            lambda: render({"instruction": "Add.", "input": ""}, "chat", tokenizer),
            lambda: check_prompt("chat", tokenizer),
        ):
            with pytest.raises(HycamError, match='Use the prompt "alpaca"'):
                attempt()


@pytest.mark.parametrize("date", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"])
def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tokenizer, date: str) -> None:
    tokenizer.chat_template = f"Today: {date}. {{% for m in messages %}}{{{{ m['content'] }}}}{{% endfor %}}="
    assert render({"instruction": "Go.", "input": ""}, "chat", tokenizer) == "Today: 26 Jul 2024. Go.="
