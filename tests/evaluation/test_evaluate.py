from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hycam.errors import HycamError
from hycam.evaluation.evaluate import evaluate
from hycam.evaluation.generation import generate
from hycam.evaluation.perplexity import response_nll
from hycam.evaluation.result import METRICS_FILE
from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l
from hycam.evaluation.tokens import Tokens

from .conftest import make_rows

NEW = 10


@pytest.fixture
def parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, Dataset]:
    return {"one": make_rows(tokenizer, count=9, seed=3), "two": make_rows(tokenizer, count=4, seed=4)}


@pytest.fixture
def with_good_answers(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Dataset]:
    """The same rows with half of the references replaced by what the model says, so that no score is trivially 0."""

    def easier(row: dict, number: int) -> dict:
        prompt = row["input_ids"][: row["prompt_length"]]
        return row if number % 2 else {"response": generate(model, tokenizer, [prompt], NEW, 1)[0] + " w1"}

    return {name: rows.map(easier, with_indices=True) for name, rows in parts.items()}


def test_every_figure_is_the_one_of_its_rows(
    with_good_answers: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    parts = with_good_answers
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    answers, nlls = {}, {}
    for name, rows in parts.items():
        prompts = [ids[:length] for ids, length in zip(rows["input_ids"], rows["prompt_length"], strict=True)]
        answers[name] = generate(model, tokenizer, prompts, NEW, batch_size=1)
        nlls[name] = response_nll(model, tokenizer, rows, batch_size=1)
        assert found.tasks[name] == {
            "perplexity": pytest.approx(math.exp(nlls[name].nll.sum() / nlls[name].tokens.sum())),
            "nll": pytest.approx(nlls[name].nll.sum() / nlls[name].tokens.sum()),
            "tokens": nlls[name].tokens.sum(),
            "rows": len(rows),
            "bleu4": pytest.approx(bleu4(answers[name], rows["response"][:])),
            "rougeL": pytest.approx(rouge_l(answers[name], rows["response"][:]).mean()),
            "generated_rows": len(rows),
            "bleu_signature": bleu_signature(),
            "rouge_tokens": "a-z0-9",
        }
        assert 0 < found.tasks[name]["bleu4"] < 1
    tasks = found.tasks.values()
    every_answer = [*answers["one"], *answers["two"]]
    every_reference = [*parts["one"]["response"], *parts["two"]["response"]]
    assert found.macro == {
        "perplexity": pytest.approx(math.exp(np.mean([task["nll"] for task in tasks]))),
        "perplexity_mean": pytest.approx(np.mean([task["perplexity"] for task in tasks])),
        "nll": pytest.approx(np.mean([task["nll"] for task in tasks])),
        "bleu4": pytest.approx(np.mean([task["bleu4"] for task in tasks])),
        "rougeL": pytest.approx(np.mean([task["rougeL"] for task in tasks])),
    }
    pooled_nll = sum(nll.nll.sum() for nll in nlls.values()) / sum(nll.tokens.sum() for nll in nlls.values())
    assert found.pooled == {
        "perplexity": pytest.approx(math.exp(pooled_nll)),
        "nll": pytest.approx(pooled_nll),
        "bleu4": pytest.approx(bleu4(every_answer, every_reference)),
        "rougeL": pytest.approx(rouge_l(every_answer, every_reference).mean()),
    }
    assert found.pooled["bleu4"] != pytest.approx(found.macro["bleu4"], rel=1e-3)
    assert "smooth:none" in found.bleu_signature


def test_every_prediction_stands_beside_its_reference(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    assert [(entry["task"], entry["row"]) for entry in found.predictions] == [
        (name, row) for name, rows in parts.items() for row in rows["row"]
    ]
    for entry, row in zip(found.predictions, [row for rows in parts.values() for row in rows], strict=True):
        prompt = row["input_ids"][: row["prompt_length"]]
        assert (entry["prompt"], entry["reference"]) == (row["prompt"], row["response"])
        assert entry["prediction"] == generate(model, tokenizer, [prompt], NEW, batch_size=1)[0]
        assert entry["rougeL"] == rouge_l([entry["prediction"]], [row["response"]])[0]
        assert entry["tokens"] == len(row["response"].split()) + 1
    for name, task in found.tasks.items():
        own = [entry for entry in found.predictions if entry["task"] == name]
        assert sum(entry["nll"] for entry in own) == pytest.approx(task["nll"] * task["tokens"])


def test_a_limit_answers_the_first_rows_and_scores_all(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    everything = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    seen: list[tuple[str, int, int]] = []
    found = evaluate(
        model, tokenizer, parts, NEW, batch_size=4, generate_rows=5, progress=lambda *step: seen.append(step)
    )
    assert seen == [
        *(("perplexity", done, 13) for done in (4, 8, 9, 13)),
        *(("generation", done, 9) for done in (4, 5, 9)),
    ]
    assert [task["generated_rows"] for task in found.tasks.values()] == [5, 4]
    assert [task["nll"] for task in found.tasks.values()] == [task["nll"] for task in everything.tasks.values()]
    answered = [entry["prediction"] is not None for entry in found.predictions]
    assert answered == [True] * 5 + [False] * 4 + [True] * 4
    assert found.predictions[:5] == everything.predictions[:5]
    first = everything.predictions[:5]
    assert found.tasks["one"]["rougeL"] == pytest.approx(np.mean([entry["rougeL"] for entry in first]))


def test_without_generation_there_is_no_text_metric_and_no_zero_in_its_place(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4, generate_rows=0)
    figures = [*found.tasks.values(), found.macro, found.pooled]
    assert [(one["bleu4"], one["rougeL"]) for one in figures] == [(None, None)] * 4
    assert found.bleu_signature is None
    assert all(entry["prediction"] is None and entry["nll"] > 0 for entry in found.predictions)
    with pytest.raises(HycamError, match="no task"):
        evaluate(model, tokenizer, {}, NEW, batch_size=4)


def test_a_task_is_worth_the_same_alone(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    together = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    alone = evaluate(model, tokenizer, {"two": parts["two"]}, NEW, batch_size=4)
    assert alone.tasks["two"] == together.tasks["two"]


def test_a_model_that_only_ends_scores_zero(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all tokens alike, and id 0 is the first of them
    model.generation_config.eos_token_id = 0
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    assert {entry["prediction"] for entry in found.predictions} == {""}
    assert found.macro["bleu4"] == found.pooled["bleu4"] == found.macro["rougeL"] == 0
    assert found.macro["perplexity"] == pytest.approx(63)  # uniform over the vocabulary


def test_a_diverged_model_is_written_as_null(
    parts: dict[str, Dataset], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4, generate_rows=0)
    assert math.isnan(found.macro["perplexity"])
    found.write(tmp_path)
    written = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=pytest.fail)
    assert written["macro"]["perplexity"] is None and written["tasks"]["one"]["tokens"] > 0


def told(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Rows with these references."""
    rows = make_rows(tokenizer, count=len(texts), seed=5).remove_columns("response")
    return rows.add_column("response", texts)


CHINESE = ["猫整天都睡在垫子上。", "我们用 PyTorch 训练语言模型。"]
RUSSIAN = ["Кошка спала на коврике весь день.", "Мы обучаем языковые модели вместе."]


def test_word_for_word_answers_are_right_in_every_task_whatever_its_script(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    texts = {
        "zh": CHINESE,
        "ru": RUSSIAN,
        "en": ["the cat sat on the mat", "we train models"],
        "numbers": ["42", "7"],
        "marks": ["...", "!?"],
    }
    parts = {name: told(said, tokenizer) for name, said in texts.items()}
    answers = iter(texts.values())
    monkeypatch.setattr("hycam.evaluation.evaluate.generate", lambda *_: next(answers))
    found = evaluate(model, tokenizer, parts, NEW, batch_size=4)
    one = pytest.approx(1)
    assert [found.tasks[name]["bleu4"] for name in texts] == [one, one, one, None, None]
    assert [found.tasks[name]["rougeL"] for name in texts] == [1, 1, 1, 1, None]
    assert [found.tasks[name]["rouge_tokens"] for name in texts] == ["unicode", "unicode", *["a-z0-9"] * 3]
    assert "tok:zh" in found.tasks["zh"]["bleu_signature"]
    assert (found.macro["bleu4"], found.macro["rougeL"], found.pooled["rougeL"]) == (one, 1, 1)
    assert (found.pooled["bleu4"], found.bleu_signature) == (None, None)  # words and characters cannot be pooled
    assert "numbers has no BLEU-4: no reference has four words" in caplog.text
    assert "marks: 2 of 2 references have no word (a-z0-9), so it has no ROUGE-L" in caplog.text


def test_the_tokens_do_not_depend_on_how_many_rows_are_answered(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    parts = {"mixed": told(["the cat sat on the mat", *CHINESE], tokenizer)}
    found = [evaluate(model, tokenizer, parts, NEW, 4, generate_rows=rows).tasks["mixed"] for rows in (1, 3)]
    assert found[0]["bleu_signature"] == found[1]["bleu_signature"] == bleu_signature(Tokens("zh", "unicode"))


def test_a_row_without_a_word_among_others_scores_0_and_is_told(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, caplog
) -> None:
    found = evaluate(model, tokenizer, {"one": told(["🐱", *["plain words " * 60] * 3], tokenizer)}, NEW, batch_size=4)
    assert found.predictions[0]["rougeL"] == 0
    assert "one: 1 of 4 references have no word (a-z0-9), so these rows score 0 in ROUGE-L" in caplog.text
