"""How close answers are to their references: corpus BLEU-4 and ROUGE-L, both between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU


def bleu4(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4 (Papineni et al. 2002) by sacrebleu.

    No smoothing, tokenizer 13a, case-sensitive, one reference for each prediction: 0 unless n-grams of all four
    lengths match somewhere in the corpus. An empty prediction adds its reference's length and no match.

    Raises:
        ValueError: no prediction, or not as many as references.
    """
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    return bleu_metric().corpus_score(list(predictions), [list(references)]).score / 100


def bleu_signature() -> str:
    """How ``bleu4`` is taken, in sacrebleu's own notation, its version included."""
    metric = bleu_metric()
    metric.corpus_score(["a"], [["a"]])  # the signature counts the references of the last score
    return str(metric.get_signature())


def bleu_metric() -> BLEU:
    """sacrebleu's BLEU as :func:`bleu4` takes it, on its scale from 0 to 100."""
    # `force` only silences a hint about predictions that look tokenised already.
    return BLEU(smooth_method="none", tokenize="13a", max_ngram_order=4, force=True)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-L F1 (Lin 2004) of each prediction by rouge-score, without stemming: float64 ``[rows]``.

    The figure for a corpus is the mean over rows (not the library's bootstrap, which moves with a global seed).
    Lower-cased runs of ``[a-z0-9]`` are the words, so other scripts and most symbols of code do not count.

    Raises:
        ValueError: not as many predictions as references.
    """
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(predictions, references, strict=True)
    return np.array([scorer.score(target=reference, prediction=text)["rougeL"].fmeasure for text, reference in pairs])
