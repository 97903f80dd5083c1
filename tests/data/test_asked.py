"""Rows that are to be answered are laid out as in training, with and without their answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from byte_tokenizer import byte_tokenizer
from chat_templates import GEMMA, QWEN_3
from data.chats import CALL, TOOLS, assistant, tokenizer_of, tool, user
from hycam.data.asked import asked_ids, asked_rows
from hycam.data.prepare import prepare
from hycam.data.recipe import DataRecipe, SplitRecipe, TaskRecipe
from hycam.errors import HycamError

TOKENIZER = byte_tokenizer()
TOKENIZER.chat_template = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    ("system", "Be kind."),
    ("user", "Hi {n}"),
    ("assistant", "Hello"),
    ("user", "Bye {n}"),
    ("assistant", "So long"),
]


def messages(number: int, role: str = "role", content: str = "content", **words: str) -> list[dict[str, str]]:
    return [{role: words.get(who, who), content: said.format(n=number)} for who, said in TALK]


# A row with its answer, the same without, and what else a recipe says of the file.
FORMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "instruction and output": (
        lambda n: {"instruction": f"Add {n}", "input": f"to {n}", "output": "x"},
        lambda n: {"instruction": f"Add {n}", "input": f"to {n}"},
        {},
    ),
    "prompt and completion": (
        lambda n: {"prompt": f"Add {n}", "completion": "x"},
        lambda n: {"prompt": f"Add {n}"},
        {},
    ),
    "question with a context": (
        lambda n: {"question": f"Add {n}", "context": f"to {n}", "answer": "x"},
        lambda n: {"question": f"Add {n}", "context": f"to {n}"},
        {},
    ),
    "instruction with a context": (
        lambda n: {"instruction": f"Add {n}", "context": f"to {n}", "response": "x"},
        lambda n: {"instruction": f"Add {n}", "context": f"to {n}"},
        {},
    ),
    "null for an answer": (
        lambda n: {"prompt": messages(n)[:-1], "completion": messages(n)[-1:]},
        lambda n: {"prompt": messages(n)[:-1], "completion": None},
        {},
    ),
    "null for other columns": (
        lambda n: {"instruction": None, "question": f"Add {n}", "answer": "x"},
        lambda n: {"instruction": None, "question": f"Add {n}"},
        {},
    ),
    "TRL, named columns": (
        lambda n: {"p": messages(n)[:-1], "c": messages(n)[-1:]},
        lambda n: {"p": messages(n)[:-1]},
        {"columns": {"instruction": "p", "response": "c"}},
    ),
    "what a recipe ignores": (
        lambda n: {"messages": [{**one, "mood": "calm"} for one in messages(n)], "chosen": "x"},
        lambda n: {"messages": [{**one, "mood": "calm"} for one in messages(n)[:-1]], "chosen": "x"},
        {"ignore": ["mood", "chosen"]},
    ),
    "system and history": (
        lambda n: {"instruction": f"Add {n}", "output": "x", "system": "Be brief.", "history": [[f"a{n}", f"b{n}"]]},
        lambda n: {"instruction": f"Add {n}", "system": "Be brief.", "history": [[f"a{n}", f"b{n}"]]},
        {},
    ),
    "messages": (lambda n: {"messages": messages(n)}, lambda n: {"messages": messages(n)[:-1]}, {}),
    "ShareGPT": (
        lambda n: {"conversations": messages(n, "from", "value", user="human", assistant="gpt")},
        lambda n: {"conversations": messages(n, "from", "value", user="human", assistant="gpt")[:-1]},
        {},
    ),
    "TRL": (
        lambda n: {"prompt": messages(n)[:-1], "completion": messages(n)[-1:]},
        lambda n: {"prompt": messages(n)[:-1]},
        {},
    ),
    "named columns": (
        lambda n: {"q": f"Add {n}", "on": f"to {n}", "a": "x", "about": "Be brief."},
        lambda n: {"q": f"Add {n}", "on": f"to {n}", "about": "Be brief."},
        {"columns": {"instruction": "q", "input": "on", "response": "a", "system": "about"}},
    ),
    "tags": (
        lambda n: {"talk": messages(n, "who", "said", user="me", assistant="you", system="rule")},
        lambda n: {"talk": messages(n, "who", "said", user="me", assistant="you", system="rule")[:-1]},
        {"columns": {"messages": "talk"}, "tags": {"role": "who", "content": "said", "user": "me", "assistant": "you",
                                                   "system": "rule"}},
    ),
}  # fmt: skip


def write(path: Path, make: Any, numbers: range = range(10)) -> str:
    path.write_text("".join(json.dumps(make(number)) + "\n" for number in numbers))
    return str(path)


def trained(path: str, prompt: str, further: dict[str, Any]) -> dict[str, list[int]]:
    """The prompts as training has them, by row."""
    split = SplitRecipe(by="count", validation_rows=1, test_rows=1)
    data = prepare(DataRecipe([TaskRecipe(path=path, **further)], split=split, prompt=prompt), TOKENIZER)
    return {row["row"]: row["input_ids"][: row["prompt_length"]]
            for part in (data.train, data.validation, data.test) for rows in part.values() for row in rows}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        *((form, prompt) for form in FORMS for prompt in ("alpaca", "chat")),
        *(("system and history", prompt) for prompt in ("paper", "{system}|{instruction}|{input}>")),
    ],
)
def test_a_row_is_asked_as_it_is_trained_with_and_without_its_answer(form: str, prompt: str, tmp_path: Path) -> None:
    whole, bare, further = FORMS[form]
    path = write(tmp_path / "rows.jsonl", whole)
    expected = trained(path, prompt, further)
    for make in (whole, bare):
        rows = asked_rows(TaskRecipe(path=write(tmp_path / "rows.jsonl", make), **further), DataRecipe())
        _, ids = asked_ids(rows, TOKENIZER, prompt)
        assert {row["row"]: one for row, one in zip(rows, ids, strict=True)} == expected


TALKS = {
    "thoughts": [user("Hi {n}"), assistant("Hello", reasoning_content="They greet.")],
    "tools": [user("Rain {n}?"), assistant("", tool_calls=[CALL]), tool("sun"), assistant("No.")],
    "a call": [user("Rain {n}?"), assistant("", tool_calls=[CALL])],
    "an answer that is not trained": [user("Hello {n}"), assistant("No", weight=0), user("Hi {n}"), assistant("Hello")],
}


@pytest.mark.parametrize("has_answer", [True, False], ids=["answered", "not answered"])
@pytest.mark.parametrize("talk", TALKS)
def test_a_chat_with_thoughts_and_tools_is_asked_as_it_is_trained(talk: str, has_answer: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(QWEN_3, "lines")
    said = TALKS[talk]
    tools = {"tools": TOOLS} if talk in ("tools", "a call") else {}

    def row(number: int, messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {"messages": [{**m, "content": m["content"].format(n=number)} for m in messages], **tools}

    path = write(tmp_path / "rows.jsonl", lambda n: row(n, said))
    split = SplitRecipe(by="count", validation_rows=1, test_rows=1)
    data = prepare(DataRecipe([TaskRecipe(path=path)], split=split, prompt="chat"), tokenizer)
    parts = [rows for part in (data.train, data.validation, data.test) for rows in part.values()]
    expected = {one["row"]: one["input_ids"][: one["prompt_length"]] for rows in parts for one in rows}
    rows = asked_rows(write(tmp_path / "rows.jsonl", lambda n: row(n, said if has_answer else said[:-1])), DataRecipe())
    _, ids = asked_ids(rows, tokenizer, "chat", data.thinks)
    assert {row["row"]: one for row, one in zip(rows, ids, strict=True)} == expected
    assert data.thinks == (talk == "thoughts")


def test_a_file_of_the_run_is_read_as_the_run_read_it(tmp_path: Path) -> None:
    _, bare, further = FORMS["named columns"]
    path = write(tmp_path / "rows.jsonl", bare)
    recipe = DataRecipe([TaskRecipe(path=path, split=SplitRecipe(by="column", column="part"), **further)])
    assert [row["instruction"] for row in asked_rows(path, recipe)] == [f"Add {n}" for n in range(10)]
    with pytest.raises(HycamError, match="columns was expected"):
        asked_rows(path, DataRecipe())


def test_columns_need_not_name_a_response(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", lambda n: {"q": f"Add {n}"})
    rows = asked_rows(TaskRecipe(path=path, columns={"instruction": "q"}), DataRecipe())
    assert [row["instruction"] for row in rows] == [f"Add {n}" for n in range(10)]
    with pytest.raises(HycamError, match=r'no column "qq"\. Did you mean "q"\? Columns: q\.'):
        asked_rows(TaskRecipe(path=path, columns={"instruction": "qq"}), DataRecipe())
    with pytest.raises(HycamError, match="The columns are: q"):
        asked_rows(path, DataRecipe())


def test_bad_rows_are_skipped_where_the_recipe_says_so(tmp_path: Path, caplog) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a"}\n{"instruction": 5.5}\n{"instruction": "b"}\n')
    with pytest.raises(HycamError, match=r"rows\.jsonl:2"):
        asked_rows(str(path), DataRecipe())
    rows = asked_rows(str(path), replace(DataRecipe(), skip_bad_rows=True))
    assert [row["instruction"] for row in rows] == ["a", "b"]
    assert "1 malformed rows skipped" in caplog.text


@pytest.mark.parametrize("prompt", ["chat", "alpaca"])
def test_rows_that_the_prompt_does_not_support_are_skipped_with_a_warning(prompt: str, tmp_path: Path, caplog) -> None:
    lines = [[user("a"), assistant("b"), user("c")], [user("a"), assistant("", tool_calls=[CALL]), tool("sun")]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": said}) + "\n" for said in lines))
    tokenizer = tokenizer_of(GEMMA, "lines")
    tokenizer.chat_template = (
        "{% if messages[1:] and messages[1].tool_calls %}{{ raise_exception('No.') }}{% endif %}" + (GEMMA.template)
    )
    rows = asked_rows(str(tmp_path / "rows.jsonl"), DataRecipe())
    assert asked_ids(rows, tokenizer, prompt, skip_bad_rows=True)[0] == rows[:1]
    assert "1 malformed rows skipped; the first: rows.jsonl:2: " in caplog.text
    with pytest.raises(HycamError, match=r"^rows\.jsonl:2: "):
        asked_ids(rows[1:], tokenizer, prompt, skip_bad_rows=True)


def test_a_folder_and_a_limit_of_rows_work_as_in_training(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", FORMS["messages"][1], range(3))
    write(tmp_path / "b.jsonl", FORMS["prompt and completion"][1], range(4))
    assert len(asked_rows(str(tmp_path), DataRecipe())) == 7
    assert len(asked_rows(TaskRecipe(path=str(tmp_path), rows=2), DataRecipe())) == 2


def test_a_long_prompt_is_not_shortened() -> None:
    _, (ids,) = asked_ids([{"instruction": "a" * 5000, "input": ""}], TOKENIZER, "{instruction}")
    assert len(ids) == 5001  # and the begin token


@pytest.mark.parametrize("prompt", [["user role"], [5], [None], [{"rle": "user"}]], ids=str)
def test_a_prompt_with_invalid_messages_is_refused_with_its_place(prompt: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", lambda n: {"prompt": prompt})
    with pytest.raises(HycamError, match=r'rows\.jsonl:1: message 1 of "prompt and completion" was expected to'):
        asked_rows(path, DataRecipe())


def test_a_conversation_that_ends_in_a_call_by_its_role_is_asked_for_the_call(tmp_path: Path) -> None:
    call = {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Paris"}})}
    asked = [{"from": "human", "value": "Rain?"}]

    def ids(messages: list[dict[str, Any]]) -> list[list[int]]:
        path = write(tmp_path / "rows.jsonl", lambda n: {"conversations": messages, "tools": TOOLS})
        return asked_ids(asked_rows(path, DataRecipe()), tokenizer_of(QWEN_3, "lines"), "chat")[1]

    assert ids([*asked, call]) == ids(asked)
