from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "out", "to", "see", "the", "dog"]


def made_texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """References of random words, and predictions that are copies with some words replaced or dropped."""
    draw = random.Random(seed)
    references = [draw.choices(WORDS, k=draw.randint(6, 20)) for _ in range(count)]
    predictions = [
        [word if draw.random() < 0.8 else draw.choice(WORDS) for word in words if draw.random() < 0.9]
        for words in references
    ]
    return [" ".join(words) for words in predictions], [" ".join(words) for words in references]


def counted_bleu4(predictions: list[str], references: list[str]) -> float:
    """BLEU-4 from its definition, for texts that fall into words at blanks alone."""
    logs = []
    for n in (1, 2, 3, 4):
        matches = possible = 0
        for prediction, reference in zip(predictions, references, strict=True):
            grams = [
                Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
                for words in (prediction.split(), reference.split())
            ]
            matches += (grams[0] & grams[1]).total()
            possible += grams[0].total()
        if matches == 0:
            return 0.0
        logs.append(math.log(matches / possible))
    length, wanted = (sum(len(text.split()) for text in texts) for texts in (predictions, references))
    return min(1.0, math.exp(1 - wanted / length)) * math.exp(sum(logs) / 4)


def longest_common(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, two in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == two else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize("seed", range(5))
def test_bleu4_is_the_counted_one(seed: int) -> None:
    predictions, references = made_texts(12, seed)
    expected = counted_bleu4(predictions, references)
    assert 0.1 < expected < 0.9
    assert bleu4(predictions, references) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([""], ["the cat sat on the mat"]),
        (["", ""], ["the cat", "sat on the mat"]),
        (["the cat sat"], ["the cat sat"]),  # too short for any run of four words
        (["a b c x d e f"], ["a b c y d e f"]),  # three in a row, never four
        (["x y z u v"], ["the cat sat on the mat"]),
        (["the cat sat on the mat"], [""]),
    ],
)
def test_bleu4_without_a_match_of_every_length_is_zero(predictions: list[str], references: list[str]) -> None:
    assert bleu4(predictions, references) == 0


def test_bleu4_heeds_case_and_splits_off_punctuation() -> None:
    assert bleu4(["the cat sat on it."], ["the cat sat on it ."]) == pytest.approx(1)
    assert bleu4(["The Cat Sat On It"], ["the cat sat on it"]) == 0


def test_the_signature_says_how_bleu_was_taken() -> None:
    assert bleu_signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:none|version:")


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_bleu4_wants_as_many_predictions_as_references(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match="predictions for"):
        bleu4(predictions, references)


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_is_the_counted_one(seed: int) -> None:
    predictions, references = made_texts(8, seed)
    for score, prediction, reference in zip(rouge_l(predictions, references), predictions, references, strict=True):
        a, b = prediction.split(), reference.split()
        common = longest_common(a, b)
        assert score == pytest.approx(2 * common / (len(a) + len(b)), rel=1e-12)


def test_rouge_l_ignores_case_and_newlines_and_does_not_stem() -> None:
    assert rouge_l(["The\nCAT sat"], ["the cat sat"]).tolist() == [1.0]
    assert rouge_l(["running"], ["runs"]).tolist() == [0.0]


@pytest.mark.parametrize(("prediction", "reference"), [("", "the cat"), ("the cat", ""), ("", ""), ("犬", "犬")])
def test_rouge_l_without_a_word_is_zero(prediction: str, reference: str) -> None:
    assert rouge_l([prediction], [reference]).tolist() == [0.0]


def test_rouge_l_wants_as_many_predictions_as_references() -> None:
    with pytest.raises(ValueError):
        rouge_l(["a"], [])
