"""Which words are counted, in every script."""

from __future__ import annotations

import random
import re

import pytest
from sacrebleu.metrics.bleu import BLEU

from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l
from hycam.evaluation.tokens import ENGLISH, Tokens, UnicodeTokenizer, tokens_of

WORDS, CHINESE, CHARACTERS = Tokens("13a", "unicode"), Tokens("zh", "unicode"), Tokens("char", "unicode")

# A sentence of at least four words, and what it is counted by.
LANGUAGES = {
    "English": ("The cat sat on the mat and slept.", ENGLISH),
    "Dutch": ("De kat zat de hele dag op de mat.", ENGLISH),
    "numbers": ("12 7 1999 3.5", ENGLISH),
    "code": ("for i in range(10): print(i ** 2)", ENGLISH),
    "French": ("L'été dernier, le théâtre était fermé à cause des grèves.", WORDS),
    "German": ("Die Bäume grünen schön über den Häusern.", WORDS),
    "Vietnamese": ("Con mèo ngủ trên chiếc ghế cạnh cửa sổ.", WORDS),
    "Turkish": ("Kedi bütün gün güneşte uyudu ve sütünü içti.", WORDS),
    "Russian": ("Кошка спала на коврике весь день.", WORDS),
    "Greek": ("Η γάτα κοιμόταν στο χαλί όλη μέρα.", WORDS),
    "Arabic": ("نامت القطة على السجادة طوال اليوم.", WORDS),
    "Hebrew": ("החתול ישן על השטיח כל היום.", WORDS),
    "Persian": ("گربه تمام روز روی فرش خوابید.", WORDS),
    "Hindi": ("बिल्ली पूरे दिन चटाई पर सोती रही।", WORDS),
    "Bengali": ("বিড়ালটি সারাদিন মাদুরের উপর ঘুমিয়েছিল।", WORDS),
    "Tamil": ("பூனை நாள் முழுவதும் பாயில் தூங்கியது.", WORDS),
    "Amharic": ("ድመቷ ቀኑን ሙሉ ምንጣፉ ላይ ተኛች።", WORDS),
    "Korean": ("고양이는 하루 종일 매트 위에서 잤다.", WORDS),
    "Chinese": ("猫整天都睡在垫子上。", CHINESE),
    "Chinese with English": ("我们用 PyTorch 训练语言模型。", CHINESE),
    "Japanese": ("猫は一日中マットの上で寝ていました。", CHARACTERS),
    "Thai": ("แมวนอนบนเสื่อทั้งวัน", CHARACTERS),
    "Lao": ("ແມວນອນຢູ່ເທິງເສື່ອຕະຫຼອດມື້", CHARACTERS),
    "Khmer": ("ឆ្មាគេងលើកន្ទេលពេញមួយថ្ងៃ", CHARACTERS),
    "Burmese": ("ကြောင်သည်ဖျာပေါ်တွင်တစ်နေကုန်အိပ်သည်။", CHARACTERS),
    "Tibetan": ("ཞི་མི་ཉིན་གང་གདན་ཐོག་ཏུ་ཉལ།", CHARACTERS),
    "emoji": ("🐱😺🐾🧶🧸", CHARACTERS),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_word_for_word_has_the_best_scores_in_every_script(language: str) -> None:
    text, expected = LANGUAGES[language]
    tokens = tokens_of([text])
    assert tokens == expected
    assert bleu4([text], [text], tokens) == pytest.approx(1)
    assert rouge_l([text], [text], tokens).tolist() == [1.0]
    assert f"tok:{expected.bleu}|" in bleu_signature(tokens)


def test_words_of_scripts_with_blanks_are_whole_and_characters_of_the_others_alone() -> None:
    words = UnicodeTokenizer().tokenize
    assert words("हिन्दी में, Été don't 3.5_x") == ["हिन्दी", "में", "été", "don", "t", "3", "5", "x"]
    assert words("我用PyTorch 2训练。") == ["我", "用", "pytorch", "2", "训", "练"]
    assert words("🙂🙂 - ok!") == ["🙂", "🙂", "ok"]


@pytest.mark.parametrize("seed", range(3))
def test_english_with_a_few_foreign_names_is_counted_as_ever(seed: int) -> None:
    draw = random.Random(seed)
    words = ["the", "cat", "café", "sat", "on", "π", "mat", *(["plain", "words", "here", "again"] * 60)]
    references = [" ".join(draw.choices(words, k=60)) for _ in range(40)]
    predictions = [" ".join(word for word in text.split() if draw.random() < 0.8) for text in references]
    tokens = tokens_of(references)
    assert tokens == ENGLISH
    before = BLEU(smooth_method="none", tokenize="13a", max_ngram_order=4, force=True)
    assert bleu4(predictions, references, tokens) == before.corpus_score(predictions, [references]).score / 100
    for score, *pair in zip(rouge_l(predictions, references, tokens), predictions, references, strict=True):
        a, b = (re.findall("[a-z0-9]+", text) for text in pair)
        assert score == pytest.approx(2 * len(a) / (len(a) + len(b)), rel=1e-12)  # the answer is a part of it


@pytest.mark.parametrize(("english", "chinese", "expected"), [(1, 0, ENGLISH), (100, 1, ENGLISH), (5, 1, WORDS),
                                                              (1, 1, CHINESE), (1, 9, CHINESE)])  # fmt: skip
def test_a_task_of_two_languages_is_counted_by_what_most_of_it_needs(english: int, chinese: int, expected) -> None:
    references = [LANGUAGES["English"][0]] * english + [LANGUAGES["Chinese"][0]] * chinese
    assert tokens_of(references) == expected
    scores = rouge_l(references, references, expected)
    assert scores[:english].tolist() == [1.0] * english
    assert expected == ENGLISH or scores.tolist() == [1.0] * len(references)


@pytest.mark.parametrize("references", [[], [""], ["...", "!?"]])
def test_without_a_word_the_tokens_are_the_usual_ones(references: list[str]) -> None:
    assert tokens_of(references) == ENGLISH
