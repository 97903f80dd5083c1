"""How close answers are to their references: corpus BLEU-4 and ROUGE-L, both between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from hycam.evaluation.tokens import ENGLISH, Tokens


def bleu4(predictions: Sequence[str], references: Sequence[str], tokens: Tokens = ENGLISH) -> float:
    """Corpus BLEU-4 (Papineni et al. 2002) by sacrebleu.

    No smoothing, case-sensitive, one reference for each prediction: 0 unless n-grams of all four lengths match
    somewhere in the corpus. An empty prediction adds its reference's length and no match.

    Raises:
        ValueError: there is no prediction, or the numbers of predictions and references differ.
    """
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    return bleu_metric(tokens).corpus_score(list(predictions), [list(references)]).score / 100


def bleu_signature(tokens: Tokens = ENGLISH) -> str:
    """How ``bleu4`` is computed, in sacrebleu's own notation, its version included."""
    metric = bleu_metric(tokens)
    metric.corpus_score(["a"], [["a"]])  # the signature states the number of references of the last score
    return str(metric.get_signature())


def bleu_metric(tokens: Tokens = ENGLISH) -> BLEU:
    """sacrebleu's BLEU with the settings of :func:`bleu4`, on its scale from 0 to 100."""
    # `force` only silences a hint about predictions that look tokenised.
    return BLEU(smooth_method="none", tokenize=tokens.bleu, max_ngram_order=4, force=True)


def rouge_l(predictions: Sequence[str], references: Sequence[str], tokens: Tokens = ENGLISH) -> np.ndarray:
    """ROUGE-L F1 (Lin 2004) of each prediction by rouge-score, without stemming: float64 ``[rows]``.

    The figure for a corpus is the mean over rows (not the library's bootstrap, which depends on a global seed). A
    reference without any of ``tokens`` gives 0.

    Raises:
        ValueError: the numbers of predictions and references differ.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=tokens.rouge_tokenizer)
    pairs = zip(predictions, references, strict=True)
    return np.array([scorer.score(target=reference, prediction=text)["rougeL"].fmeasure for text, reference in pairs])
