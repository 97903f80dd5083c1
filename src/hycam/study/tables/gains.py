"""The reference's gain over the baselines: the paper's "average relative improvement" by a definition that can be
checked against its published table, and the gain in perplexity on each backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from hycam.study import paper

METRICS = ("ppl", "bleu4", "rougeL")

Scores = Mapping[str, Mapping[str, Sequence[float | None]]]
"""By method and backbone, the three ``METRICS``; None for one that was not measured."""

_PAPER_PEFT = ("LoRA", "MultiLoRA", "RieMoE-LoRA")
_PAPER_ALL = ("Full Finetune", *_PAPER_PEFT)


class Gain(NamedTuple):
    """A method's relative gain over the best baseline (``against``), in one metric on one backbone."""

    backbone: str
    metric: str
    against: str
    value: float


def relative_gains(scores: Scores, method: str, baselines: Collection[str]) -> list[Gain]:
    """The relative gain over the best baseline of each backbone and metric.

    With ``x`` the method's value and ``b`` the best of the baselines, which need not be the same one everywhere::

        gain = (b - x) / b   for perplexity,      (x - b) / b   for BLEU-4 and ROUGE-L

    There is no gain where the method or all baselines are missing, or where the best baseline is 0 (a BLEU-4 without
    any match of four words).
    """
    found = []
    for backbone, own in scores.get(method, {}).items():
        for at, metric in enumerate(METRICS):
            others = {name: scores.get(name, {}).get(backbone, (None,) * len(METRICS))[at] for name in baselines}
            known = {name: value for name, value in others.items() if value is not None}
            mine = own[at]
            if mine is None or not known:
                continue
            against = (min if metric == "ppl" else max)(known, key=lambda name: known[name])
            best = known[against]
            if best != 0:
                found.append(Gain(backbone, metric, against, (best - mine if metric == "ppl" else mine - best) / best))
    return found


def average_relative_improvement(scores: Scores, method: str, baselines: Collection[str]) -> float | None:
    """The mean of :func:`relative_gains` over C backbones and M metrics, each weighing the same::

        improvement = 1 / (C M) Σ_backbones Σ_metrics gain(backbone, metric)

    The paper's Table 2 (C = 5, M = 3) gives 2.97 % with full fine-tuning among the baselines and 4.09 % over the three
    PEFT baselines; the paper claims 3.65 %. None if there is nothing to compare.
    """
    gains = [gain.value for gain in relative_gains(scores, method, baselines)]
    return sum(gains) / len(gains) if gains else None


def perplexity_gains(scores: Scores, method: str, baselines: Collection[str]) -> dict[str, float]:
    """The relative gain in perplexity over the best baseline, in percent, by backbone."""
    return {one.backbone: 100 * one.value for one in relative_gains(scores, method, baselines) if one.metric == "ppl"}


def published_gains(method: str, backbones: Sequence[str]) -> dict[str, float]:
    """The same from the paper's tables over its PEFT baselines, on the backbones that it has."""
    found: dict[str, float] = {}
    for table in ("table2", "table3", "table4"):
        theirs = perplexity_gains(paper.published()[table], method, _PAPER_PEFT)
        found |= {name: theirs[name] for name in backbones if name in theirs}
    return found


def average_gain(scores: Scores, reference: str, peft: Sequence[str], every: Sequence[str], figures: str) -> str:
    """The average relative improvement in words, beside that of the published table; empty without baselines.

    Args:
        scores: of the study, on the backbones where all of these methods are finished.
        reference: the method.
        peft, every: the PEFT baselines, and all baselines.
        figures: the study's metrics, in words.
    """
    over_peft, over_all = (average_relative_improvement(scores, reference, names) for names in (peft, every))
    if over_peft is None or over_all is None:
        return ""
    table = paper.published()["table2"]
    theirs = [average_relative_improvement(table, "HyCAM", names) or 0.0 for names in (_PAPER_PEFT, _PAPER_ALL)]
    claimed = paper.published()["claimed_average_relative_improvement"]
    return (
        f"Average relative improvement of {reference}, the mean over backbones and figures ({figures}) of the gain "
        f"over the best baseline there: {_percent(over_peft)} over the PEFT baselines, {_percent(over_all)} over all. "
        f"By this definition the paper's Table 2 has {_percent(theirs[0])} and {_percent(theirs[1])} (PPL, BLEU-4, "
        f"ROUGE-L), where the paper says {_percent(claimed)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
