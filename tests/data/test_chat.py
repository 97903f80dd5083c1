"""Thoughts, tools and answers that are not trained, through chat templates that treat them in their own ways."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_templates import CHATML, FAMILIES, GEMMA, LLAMA_3_1, QWEN_3, R1, Family
from data.chats import (
    CALL,
    TOOLS,
    assistant,
    encoded,
    messages_row,
    plain_row,
    template_ids,
    tokenizer_of,
    tool,
    trained,
    user,
)
from hycam.data.prompts import render, render_turns
from hycam.data.tokens import encode_prompts
from hycam.errors import HycamError
from hycam.labelled import IGNORED

THOUGHT = assistant("The answer.", reasoning_content="a question of kind words")
INLINE = "<think>\na question of kind words\n</think>\n\nThe answer."
NOTHING = "<think>\n\n</think>\n\n"
KINDS = ("lines", "legacy", "first")
every_kind = pytest.mark.parametrize("kind", KINDS)
ASKED_WITH_TOOLS = [user("weather?"), assistant("", tool_calls=[CALL]), tool("17 degrees"), assistant("It is 17.")]


def starts_where_it_is_asked(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast, said: list, **more: Any) -> bool:
    """Whether the row begins with the generation prompt of transformers, and is trained right from its end on."""
    asked = template_ids(tokenizer, said[:-1], add_generation_prompt=True, **more)
    return row["input_ids"][: row["prompt_length"]] == asked


class TestThoughts:
    @every_kind
    def test_qwens_kind_asks_for_no_thought_where_a_row_has_none(self, kind: str) -> None:
        tokenizer = tokenizer_of(QWEN_3, kind)
        row = encoded(plain_row("What is it?", "The answer."), tokenizer)
        said = [user("What is it?"), assistant("The answer.")]
        assert starts_where_it_is_asked(row, tokenizer, said, enable_thinking=False)
        assert row["prompt"].endswith(NOTHING) and not row["thinks"]
        assert trained(row, tokenizer) == ["The answer.<|im_end|>"]
        prompt = render({"instruction": "What is it?", "input": ""}, "chat", tokenizer)
        assert encode_prompts([prompt], tokenizer, "chat")[0] == row["input_ids"][: row["prompt_length"]]

    @every_kind
    @pytest.mark.parametrize("answer", [THOUGHT, assistant(INLINE)])
    def test_qwens_kind_has_the_thought_trained_where_a_row_has_one(self, kind: str, answer: dict[str, Any]) -> None:
        tokenizer = tokenizer_of(QWEN_3, kind)
        said = [user("What is it?"), answer]
        row = encoded(messages_row(said), tokenizer)
        assert starts_where_it_is_asked(row, tokenizer, said)
        assert row["input_ids"] == template_ids(tokenizer, said)[: len(row["input_ids"])]
        assert row["thinks"] and row["response"] == INLINE
        assert row["labels"][row["prompt_length"] :] == row["input_ids"][row["prompt_length"] :]
        prompt = render({"instruction": "What is it?", "input": ""}, "chat", tokenizer, thinks=True)
        assert encode_prompts([prompt], tokenizer, "chat")[0] == row["input_ids"][: row["prompt_length"]]

    def test_earlier_answers_of_qwens_kind_are_trained_as_its_template_writes_them(self) -> None:
        tokenizer = tokenizer_of(QWEN_3, "lines")
        row = encoded(plain_row("One?", "two", "Three?", "more"), tokenizer)
        assert trained(row, tokenizer) == ["two<|im_end|>", "more<|im_end|>"]
        assert row["prompt"].count(NOTHING) == 1

    @every_kind
    @pytest.mark.parametrize("answer", [THOUGHT, assistant(INLINE), assistant(INLINE.removeprefix("<think>\n"))])
    def test_an_opened_thought_is_opened_once(self, kind: str, answer: dict[str, Any]) -> None:
        tokenizer = tokenizer_of(R1, kind)
        said = [user("What is it?"), answer]
        row = encoded(messages_row(said), tokenizer)
        assert starts_where_it_is_asked(row, tokenizer, said)
        (only,) = render_turns(messages_row(said)[0], "chat", tokenizer)
        assert only == ("<s><|User|>What is it?<|Assistant|><think>\n", INLINE.removeprefix("<think>\n"))
        assert row["input_ids"] == tokenizer(f"{only.before}{only.answer}</s>", add_special_tokens=False)["input_ids"]

    def test_an_answer_without_a_thought_is_refused_inside_an_open_one(self) -> None:
        for template in (R1.template, R1.template.replace("<|Assistant|>{{ m", "<|Assistant|><think>\n{{ m")):
            tokenizer = tokenizer_of(R1._replace(template=template), "lines")
            with pytest.raises(HycamError, match=r"^a\.jsonl:1: .*with a thought.*reasoning_content.*alpaca"):
                encoded(plain_row("What is it?", "The answer."), tokenizer)

    @pytest.mark.parametrize("family", [QWEN_3, R1])
    def test_a_thought_that_does_not_end_is_not_begun_twice(self, family: Family) -> None:
        row = plain_row("What?", "<think>\nIt is")
        with pytest.raises(HycamError, match=r"^a\.jsonl:1: The answer begins with <think> but has no </think>"):
            encoded(row, tokenizer_of(family, "lines"))
        assert trained(encoded(row, tokenizer_of(CHATML, "lines")), tokenizer_of(CHATML, "lines"))

    def test_a_template_that_opens_thoughts_is_asked_as_it_asks(self) -> None:
        tokenizer = tokenizer_of(R1, "lines")
        assert render({"instruction": "Go.", "input": ""}, "chat", tokenizer).endswith("<|Assistant|><think>\n")

    @pytest.mark.parametrize("family", [QWEN_3, R1])
    def test_an_earlier_thought_that_the_template_takes_out_can_be_asked_but_not_trained(self, family: Family) -> None:
        tokenizer = tokenizer_of(family, "lines")
        said = [user("What is it?"), THOUGHT, user("And?"), assistant(INLINE)]
        with pytest.raises(HycamError, match=r"does not keep the earlier answers.*turns: last"):
            encoded(messages_row(said), tokenizer)
        row = encoded(messages_row(said), tokenizer, turns="last")
        assert len(trained(row, tokenizer)) == 1 and "words" not in row["prompt"]
        assert starts_where_it_is_asked(row, tokenizer, said)

    def test_a_thought_that_a_template_does_not_support_is_not_lost(self) -> None:
        tokenizer = tokenizer_of(CHATML, "lines")
        with pytest.raises(HycamError, match=r"no place for reasoning_content.*between <think> and </think>"):
            encoded(messages_row([user("What is it?"), THOUGHT]), tokenizer)
        row = encoded(plain_row("What is it?", INLINE), tokenizer)
        assert trained(row, tokenizer) == [f"{INLINE}<|im_end|>"]

    def test_a_thought_in_the_text_is_not_put_behind_an_empty_one(self) -> None:
        template = CHATML.template.replace("{% generation %}", "{% generation %}" + NOTHING)
        tokenizer = tokenizer_of(CHATML._replace(template=template), "lines")
        assert trained(encoded(plain_row("Go.", INLINE), tokenizer), tokenizer) == [f"{INLINE}<|im_end|>"]


class TestTools:
    @every_kind
    @pytest.mark.parametrize("family", [QWEN_3, LLAMA_3_1])
    def test_calls_and_answers_are_trained_and_the_output_of_tools_is_not(self, kind: str, family: Family) -> None:
        tokenizer = tokenizer_of(family, kind)
        row = encoded(messages_row(ASKED_WITH_TOOLS, TOOLS), tokenizer)
        whole = template_ids(tokenizer, ASKED_WITH_TOOLS, tools=TOOLS, enable_thinking=False)
        assert row["input_ids"] == whole[: len(row["input_ids"])]
        call, answer = trained(row, tokenizer)
        assert '"name": "weather"' in call and '{"city": "Paris"}' in call and call.endswith(family.end)
        assert answer == f"It is 17.{family.end}"
        assert "17 degrees" in row["prompt"] and "Today's weather." in row["prompt"]
        assert row["response"] == "It is 17."
        assert starts_where_it_is_asked(row, tokenizer, ASKED_WITH_TOOLS, tools=TOOLS, enable_thinking=False)

    @pytest.mark.parametrize("family", [QWEN_3, LLAMA_3_1])
    def test_a_call_may_be_the_last_answer(self, family: Family) -> None:
        tokenizer = tokenizer_of(family, "lines")
        row = encoded(messages_row(ASKED_WITH_TOOLS[:2], TOOLS), tokenizer)
        (call,) = trained(row, tokenizer)
        assert '"name": "weather"' in call and row["response"] + family.end == call
        assert starts_where_it_is_asked(row, tokenizer, ASKED_WITH_TOOLS[:2], tools=TOOLS, enable_thinking=False)

    def test_a_thought_before_a_call_is_trained_with_it(self) -> None:
        tokenizer = tokenizer_of(QWEN_3, "lines")
        said = [user("weather?"), assistant("", tool_calls=[CALL], reasoning_content="I ask"), *ASKED_WITH_TOOLS[2:]]
        call, answer = trained(encoded(messages_row(said, TOOLS), tokenizer), tokenizer)
        assert call.startswith("<think>\nI ask\n</think>\n\n<tool_call>") and answer == "It is 17.<|im_end|>"

    @pytest.mark.parametrize(
        ("template", "what"),
        [
            (CHATML.template, "the tools of a conversation"),
            (CHATML.template + "{{ tools | tojson if tools }}", "the calls of tools"),
            (LLAMA_3_1.template.replace("{{ m.content | tojson ~ '<|eot_id|>' }}", ""), "the output of tools"),
        ],
    )
    def test_a_template_that_leaves_something_out_is_refused(self, template: str, what: str) -> None:
        tokenizer = tokenizer_of(LLAMA_3_1._replace(template=template), "lines")
        with pytest.raises(HycamError, match=rf"^a\.jsonl:1: The chat template .* drops {what}.*chat_template"):
            encoded(messages_row(ASKED_WITH_TOOLS, TOOLS), tokenizer)

    def test_words_beside_a_call_that_a_template_leaves_out_are_refused(self) -> None:
        said = [user("weather?"), assistant("I will ask.", tool_calls=[CALL])]
        with pytest.raises(HycamError, match="drops a part of an answer that calls tools"):
            encoded(messages_row(said, TOOLS), tokenizer_of(LLAMA_3_1, "lines"))
        (call,) = trained(
            encoded(messages_row(said, TOOLS), tokenizer_of(QWEN_3, "lines")), tokenizer_of(QWEN_3, "lines")
        )
        assert call.startswith("I will ask.\n<tool_call>")

    @pytest.mark.parametrize("style", ["alpaca", "paper", "Q: {instruction} A:"])
    def test_prompts_other_than_chat_do_not_support_them(self, style: str) -> None:
        for said in (ASKED_WITH_TOOLS, [user("What is it?"), THOUGHT]):
            with pytest.raises(HycamError, match=r'^a\.jsonl:1: The prompt ".*Use the prompt "chat"'):
                encoded(messages_row(said), tokenizer_of(CHATML, "lines"), prompt=style)


class TestWeights:
    SAID = (user("One?"), assistant("two", weight=0), user("Three?"), assistant("more", weight=1))

    @pytest.mark.parametrize(("family", "kind"), [*zip(FAMILIES, cycle(KINDS))])
    def test_an_answer_of_weight_0_is_read_and_not_trained(self, family: str, kind: str) -> None:
        tokenizer = tokenizer_of(FAMILIES[family], kind)
        weighted = encoded(messages_row([*self.SAID]), tokenizer)
        plain = encoded(plain_row("One?", "two", "Three?", "more"), tokenizer)
        assert weighted["input_ids"] == plain["input_ids"]
        assert trained(weighted, tokenizer) == trained(plain, tokenizer)[1:]

    @pytest.mark.parametrize("style", ["chat", "alpaca", "paper", "Q: {instruction} A:"])
    def test_messages_after_the_last_trained_answer_are_dropped(self, style: str) -> None:
        tokenizer = tokenizer_of(CHATML, "lines")
        said = [user("One?"), assistant("two"), user("Three?"), assistant("more", weight=0)]
        row = encoded(messages_row(said), tokenizer, prompt=style)
        assert row["input_ids"] == encoded(plain_row("One?", "two"), tokenizer, prompt=style)["input_ids"]

    @pytest.mark.parametrize("style", ["alpaca", "paper", "Q: {instruction} A:"])
    def test_other_prompts_do_not_train_it_either(self, style: str) -> None:
        tokenizer = tokenizer_of(CHATML, "lines")
        system = {"role": "system", "content": "Be kind."}
        weighted = encoded(messages_row([system, *self.SAID]), tokenizer, prompt=style)
        plain = encoded(plain_row("One?", "two", "Three?", "more", system="Be kind."), tokenizer, prompt=style)
        assert weighted["input_ids"] == plain["input_ids"]
        assert trained(plain, tokenizer) == ["two</s>", "more</s>"] and trained(weighted, tokenizer) == ["more</s>"]

    @pytest.mark.parametrize("style", ["chat", "alpaca"])
    def test_a_conversation_of_which_nothing_is_trained_is_refused(self, style: str) -> None:
        with pytest.raises(HycamError, match="No answer of the conversation is trained"):
            encoded(messages_row([*self.SAID[:2]]), tokenizer_of(CHATML, "lines"), prompt=style)


class TestTemplatesAsTheyAre:
    """The chat templates that TRL brings along."""

    @pytest.fixture
    def folder(self) -> Path:
        return Path(pytest.importorskip("trl").__file__).parent / "chat_templates"

    @pytest.mark.parametrize(
        ("name", "special", "thinks"),
        [
            ("qwen3", QWEN_3.special, True),
            ("qwen2_5", QWEN_3.special, False),
            ("llama3_1", LLAMA_3_1.special, False),
            ("gemma", GEMMA.special, False),
            ("phi3", FAMILIES["phi-3"].special, False),
        ],
    )
    @pytest.mark.parametrize("kind", ["lines", *(pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS[1:])])
    def test_give_the_ids_of_transformers(
        self, folder: Path, name: str, special: tuple[str, ...], thinks: bool, kind: str
    ) -> None:
        tokenizer = tokenizer_of(Family((folder / f"{name}.jinja").read_text(), special), kind)
        said = [user("One?"), assistant("two"), user("Three?"), assistant("more")]
        cases = (
            [(said, None), (ASKED_WITH_TOOLS, TOOLS)] if name in ("qwen3", "qwen2_5", "llama3_1") else [(said, None)]
        )
        cases += [([user("What is it?"), THOUGHT], None)] if thinks else []
        for messages, tools in cases:
            row = encoded(messages_row(messages, tools), tokenizer)
            wants = {"tools": tools, "enable_thinking": messages[-1] is THOUGHT}
            whole = template_ids(tokenizer, messages, **wants)
            assert row["input_ids"] == whole[: len(row["input_ids"])]
            assert starts_where_it_is_asked(row, tokenizer, messages, **wants)
            assert len(trained(row, tokenizer)) == sum(message["role"] == "assistant" for message in messages)

    @pytest.mark.parametrize("name", ["qwen3_training", "qwen2_5_training", "llama3_training", "gemma_training"])
    def test_are_trained_where_they_mark_what_is_generated(self, folder: Path, name: str) -> None:
        special = (*QWEN_3.special, *LLAMA_3_1.special, *GEMMA.special)
        tokenizer = tokenizer_of(Family((folder / f"{name}.jinja").read_text(), special), "lines")
        said = [user("One?"), assistant("two"), user("Three?"), assistant("more")]
        row = encoded(messages_row(said), tokenizer)
        marked = tokenizer.apply_chat_template(
            said, return_dict=True, return_assistant_tokens_mask=True, enable_thinking=False
        )
        size = len(row["input_ids"])
        assert row["input_ids"] == marked["input_ids"][:size]
        masks = [bool(one) for one in marked["assistant_masks"][:size]]
        ours = [label != IGNORED for label in row["labels"]]
        at = [n for n, (mask, our) in enumerate(zip(masks, ours, strict=True)) if mask != our]
        # TRL trains the empty thought, with which a model is asked here, and the line end behind an answer too.
        assert not any(ours[n] for n in at)
        beside = tokenizer.decode([row["input_ids"][n] for n in at])
        assert beside.replace(NOTHING, "").strip() == ""
