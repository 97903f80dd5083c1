"""How the rows of each dataset become examples, on rows written for this test in each dataset's own layout."""

from __future__ import annotations

import pytest

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import Convert
from hycam.data.tasks import gsm8k, icliniq, mbpp, medmcqa, squad, webgpt
from hycam.errors import HycamError


def converted(convert: Convert, *rows: dict) -> list[Example]:
    made = [convert(SourceRow("file.jsonl", number, fields)) for number, fields in enumerate(rows, 1)]
    return [example for example in made if example is not None]


def test_gsm8k_says_its_result_in_words_and_loses_the_calculator_marks() -> None:
    answer = "Ann has 3*400 = <<3*400=1200>>1,200 nuts.\nIn all $<<1200+4=1204>>1,204.\n#### 1,204"
    (example,) = converted(gsm8k.example, {"question": "How many?", "answer": answer})
    assert example.response == "Ann has 3*400 = 1,200 nuts.\nIn all $1,204.\nThe answer is 1,204."


def medical_row(identity: str, explanation: str | None, idx: object = 0, doc_id: object = 7, cop: object = 2) -> dict:
    options = {"opa": "One", "opb": "Two", "opc": "Three", "opd": "Four"}
    document = {"id": identity, "question": f"{identity}?", **options, "cop": cop, "exp": explanation}
    return {"doc": document, "idx": idx, "doc_id": doc_id}


def test_medmcqa_takes_each_explained_question_once() -> None:
    rows = [
        medical_row("x", "Because."),
        medical_row("x", "Because.", idx=1),  # once more for each option
        medical_row("y", None),
        medical_row("z", "So."),
        medical_row("x", "Because.", doc_id=1_000_000),  # the file has all questions a second time
    ]
    examples = converted(medmcqa.example, *rows)
    assert [example.row for example in examples] == ["file.jsonl:1", "file.jsonl:4"]
    assert examples[0].instruction == "x?\nA. One\nB. Two\nC. Three\nD. Four"
    assert examples[0].response == "C. Three\n\nBecause."


def test_mbpp_changes_line_ends_and_not_the_indentation() -> None:
    code = "\r\ndef f(x): \r\n\tif x:\r\n\t    return 1 \r\n  \r\r\n    return 2 \r\n"
    document = {"text": "Do it.", "code": code, "test_list": ["assert f(1) == 1", "assert f(0) == 2"]}
    (example,) = converted(mbpp.example, {"doc": document})
    assert example.response == "def f(x): \n\tif x:\n\t    return 1 \n  \n\n    return 2 "
    assert example.instruction.endswith("assert f(1) == 1")
    assert example.group == "Do it."


def test_squad_groups_by_article_and_keeps_every_line_of_the_passage() -> None:
    query = "Title: A_B\nBackground: First line.\nSecond: line.\nQuestion: What?\nAnswer:"
    (example,) = converted(squad.example, {"doc": {"title": "A_B", "query": query, "answers_text": ["this", "that"]}})
    assert (example.input, example.instruction) == ("First line.\nSecond: line.", "What?")
    assert (example.response, example.group) == ("this", "A_B")


def test_squad_refuses_another_layout() -> None:
    with pytest.raises(HycamError, match=r"file\.jsonl:1: \"query\" was expected"):
        converted(squad.example, {"doc": {"title": "A", "query": "Question: What?", "answers_text": ["x"]}})


@pytest.mark.parametrize(("scores", "better"), [((0.5, -0.5), "first"), ((-1.0, 1.0), "second"), ((0.0, 0.0), "first")])
def test_webgpt_takes_the_answer_with_the_higher_score(scores: tuple[float, float], better: str) -> None:
    row = {"question": {"full_text": " Why?\n"}, "answer_0": "first ", "answer_1": " second"}
    (example,) = converted(webgpt.from_hub, {**row, "score_0": scores[0], "score_1": scores[1]})
    assert (example.instruction, example.response) == ("Why?", better)


def test_icliniq_takes_the_doctors_answer_and_groups_by_patient() -> None:
    (example,) = converted(icliniq.from_hub, {"input": "It hurts.", "answer_icliniq": "Rest.", "answer_chatgpt": "No."})
    assert (example.input, example.group, example.response) == ("It hurts.", "It hurts.", "Rest.")
    assert "doctor" in example.instruction


@pytest.mark.parametrize(
    ("convert", "row", "said"),
    [
        (medmcqa.example, medical_row("x", "So.", cop=4), '"cop" is 4'),
        (medmcqa.example, medical_row("x", "So.", cop=None), '"cop" is null, a number was expected'),
        (medmcqa.example, medical_row("x", "So.", idx="0"), '"idx" is text'),
        (medmcqa.example, medical_row("x", "So.", doc_id=True), '"doc_id" is true or false'),
        (medmcqa.example, {"doc": None}, '"doc" was expected to hold an object'),
        (mbpp.example, {"doc": {"text": "a", "code": "b"}}, 'no column "test_list"'),
        (mbpp.example, {"doc": {"text": "a", "code": "b", "test_list": []}}, '"test_list" was expected to hold a list'),
        (mbpp.example, {"doc": {"text": "a", "code": "b", "test_list": [1]}}, 'first of "test_list" is a number (1)'),
        (
            squad.example,
            {"doc": {"title": "A", "query": "Title: A\nBackground: b\nQuestion: c\nAnswer:", "answers_text": None}},
            '"answers_text" was expected to hold a list',
        ),
        (
            webgpt.from_hub,
            {"question": {"full_text": "Q"}, "answer_0": "a", "answer_1": "b", "score_0": None, "score_1": 1.0},
            '"score_0" is null, a number was expected',
        ),
    ],
)
def test_a_row_of_another_layout_is_refused_with_its_place(convert: Convert, row: dict, said: str) -> None:
    with pytest.raises(HycamError) as caught:
        converted(convert, row)
    assert str(caught.value).startswith("file.jsonl:1: ") and said in str(caught.value)
