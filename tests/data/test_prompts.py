from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from byte_tokenizer import byte_tokenizer
from chat_templates import CHATML, FAMILIES, GEMMA, LLAMA_3_1, MISTRAL, Family
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

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = Family(  # the line that opens an answer is there only where there is one
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}",
    ("<|user|>", "<|assistant|>"),
)
every_family = pytest.mark.parametrize("family", [*FAMILIES.values(), ZEPHYR], ids=[*FAMILIES, "zephyr"])


def chat_tokenizer(family: Family, template: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes with the special tokens of a family, and its template or another."""
    tokenizer = byte_tokenizer("<s> $A")
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.special]})
    tokenizer.chat_template = template or family.template
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
    def test_ends_an_answer_with_the_token_that_the_template_puts_there(self, family: Family) -> None:
        assert end_token(chat_tokenizer(family), "chat") == family.end
        assert end_token(chat_tokenizer(family), "alpaca") == "</s>"

    @pytest.mark.parametrize(
        "template", ["{% for m in messages %}{{ m['content'] }}{% endfor %}", "{{ raise_exception('never') }}"]
    )
    def test_ends_with_the_tokenizers_own_end_where_the_template_puts_none(self, template: str) -> None:
        assert end_token(chat_tokenizer(CHATML, template), "chat") == "</s>"

    def test_ends_with_an_added_token_also_where_it_is_not_called_special(self) -> None:
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([AddedToken("<|im_end|>", special=False)])
        tokenizer.chat_template = CHATML.template
        assert end_token(tokenizer, "chat") == "<|im_end|>"

    def test_another_template_may_end_in_another_way(self) -> None:
        tokenizer = chat_tokenizer(CHATML)
        for template, end in (
            (CHATML.template, "<|im_end|>"),
            (MISTRAL.template, "</s>"),
            ({"default": CHATML.template, "tool_use": MISTRAL.template}, "<|im_end|>"),
        ):
            tokenizer.chat_template = template  # type: ignore[assignment]
            assert end_token(tokenizer, "chat") == end

    @pytest.mark.parametrize("turns", ["all", "last"])
    @every_family
    def test_turns_and_end_tokens_are_the_templates_own_conversation(self, family: Family, turns: Any) -> None:
        tokenizer = chat_tokenizer(family)
        found = render_turns(THREE, "chat", tokenizer, turns)
        assert len(found) == (3 if turns == "all" else 1)
        whole = tokenizer.apply_chat_template(messages(THREE), tokenize=False)
        together = "".join(before + answer + family.end for before, answer in found)
        assert together == whole[: whole.rindex(family.end) + len(family.end)]
        answers = [answer.strip(" ").removeprefix("<think>\n\n</think>\n\n") for _, answer in found]
        assert answers == ["1", "two 2", "3."][-len(found) :]

    @every_family
    def test_what_is_generated_from_is_what_stands_before_a_trained_answer(self, family: Family) -> None:
        tokenizer = chat_tokenizer(family)
        row = {**talk(("Sum?", " an answer \n")), "input": "2 3"}
        (only,) = render_turns(row, "chat", tokenizer)
        assert render({"instruction": "Sum?", "input": "2 3"}, "chat", tokenizer) == only.before
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Sum?\n\n2 3"}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        assert "Sum?\n\n2 3" in only.before and only.before.startswith(asked)

    def test_an_answer_is_trained_as_the_template_strips_it_or_with_its_blanks(self) -> None:
        row = talk(("Go.", "\n gone \n"))
        for family, answer in (
            (LLAMA_3_1, "gone"), (GEMMA, "gone"), (CHATML, "\n gone \n"), (ZEPHYR, "\n gone \n"), (MISTRAL, " \n gone \n")
        ):  # fmt: skip
            assert render_turns(row, "chat", chat_tokenizer(family))[0].answer == answer

    def test_an_answer_with_the_end_token_in_it_is_whole(self) -> None:
        row = talk(("One?", "a<|im_end|>a"), ("Two?", "a<|im_end|>"))
        turns = render_turns(row, "chat", chat_tokenizer(CHATML))
        assert [turn.answer for turn in turns] == ["a<|im_end|>a", "a<|im_end|>"]

    def test_the_systems_text_goes_where_the_template_has_it(self) -> None:
        (only,) = render_turns(talk(("Go.", "Gone."), system="Be brief."), "chat", chat_tokenizer(CHATML))
        assert only.before.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGo.")

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            (GEMMA.template, r"System role not supported"),
            (MISTRAL.template, r"only user and assistant"),
            *((broken, "") for broken in ("{% for %}", "{{ messages[0]['content'] + 1 }}", "{{ 1 / 0 }}", "{{ a.b }}")),
        ],
    )
    def test_a_template_that_refuses_or_fails_in_any_way_is_quoted(self, template: str, said: str) -> None:
        row = talk(("Go.", "Gone."), system="Be brief.")
        with pytest.raises(
            HycamError, match=rf'of the tokenizer refuses a conversation \({said}.*system text.*prompt "alpaca"'
        ):
            render_turns(row, "chat", chat_tokenizer(CHATML, template))

    @pytest.mark.parametrize(
        "template",
        [
            PLAIN.replace("{{ m['content'] }}", "{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}"),
            PLAIN.replace("for m in messages", "for m in messages[-2:]"),
            PLAIN.replace("<|im_end|>\n{% endfor %}", "\n{% endfor %}"),
        ],
    )
    def test_a_template_that_rewrites_earlier_turns_gives_the_last_answer_alone(self, template: str) -> None:
        tokenizer = chat_tokenizer(CHATML, template)
        with pytest.raises(HycamError, match=r"does not keep the earlier answers.*\(turns: last\)"):
            render_turns(THREE, "chat", tokenizer, "all")
        (only,) = render_turns(THREE, "chat", tokenizer, "last")
        asked = tokenizer.apply_chat_template(messages(THREE)[:-1], tokenize=False, add_generation_prompt=True)
        assert only == (asked, "3.")

    def test_an_answer_follows_what_asks_for_it_where_the_template_writes_answers_otherwise(self) -> None:
        template = PLAIN.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\nSo: {% endif %}")
        (only,) = render_turns(talk(("Go.", "Gone.")), "chat", chat_tokenizer(CHATML, template))
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
