"""What the reference gains over the baselines: the paper's average, and the gain in perplexity on each backbone."""

from __future__ import annotations

from collections.abc import Sequence

from hycam.study import paper
from hycam.study.improvement import Scores, average_relative_improvement, relative_gains
from hycam.study.plan import Plan
from hycam.study.tables.over_folds import Line, is_hycam, is_peft_baseline, is_trained, lines, place
from hycam.study.tables.scores import ALL_SCORES, PPL, comparable_backbones, scores

_PAPER_PEFT = ("LoRA", "MultiLoRA", "RieMoE-LoRA")
_PAPER_ALL = ("Full Finetune", *_PAPER_PEFT)


def peft_baselines(plan: Plan) -> list[str]:
    """The labels of a study's adapters other than HyCAM."""
    return [name for name in plan.study.methods if is_peft_baseline(plan, name)]


def average_gain(plan: Plan) -> str:
    """The average relative improvement with its definition, and what the published table gives by the same; empty
    where the study has no baselines of either kind."""
    reference = plan.study.reference
    names = [name for name in plan.study.methods if is_trained(plan, name) and not is_hycam(plan, name)]
    own = _scores(plan, [Line(name, {}) for name in (reference, *names)])
    ours = [average_relative_improvement(own, reference, found) for found in (peft_baselines(plan), names)]
    if ours[0] is None or ours[1] is None:
        return ""
    table = paper.published()["table2"]
    theirs = [average_relative_improvement(table, "HyCAM", found) or 0.0 for found in (_PAPER_PEFT, _PAPER_ALL)]
    claimed = paper.published()["claimed_average_relative_improvement"]
    figures = ", ".join(score.heading for score in scores(plan))
    return (
        f"Average relative improvement of {reference}, the mean over backbones and figures ({figures}) of the gain "
        f"over the best baseline there: {_percent(ours[0])} over the PEFT baselines, {_percent(ours[1])} over all. By "
        f"this definition the paper's Table 2 has {_percent(theirs[0])} and {_percent(theirs[1])} (PPL, BLEU-4, "
        f"ROUGE-L), where the paper says {_percent(claimed)}."
    )


def perplexity_gains(plan: Plan) -> dict[str, dict[str, float]]:
    """The relative gain in perplexity over the best PEFT baseline, in percent, by whose gain it is and by backbone.

    The paper's stand beside ours for the backbones on which the cells are of its comparison.
    """
    reference, peft = plan.study.reference, peft_baselines(plan)
    found = {}
    for line in lines(plan, lambda method: method == reference):
        own = _scores(plan, [Line(name, line.settings) for name in (reference, *peft)])
        found[f"Gain of {line.label}"] = _of_perplexity(own, reference, peft)
    for table in ("table2", "table3", "table4"):
        of_table = paper.published()[table]
        same = {
            method: {name: of_method[name] for name in comparable_backbones(plan) if name in of_method}
            for method, of_method in of_table.items()
        }
        theirs = _of_perplexity(same, reference, _PAPER_PEFT)
        if theirs:
            found.setdefault(f"Gain of {reference}, paper", {}).update(theirs)
    return found


def _scores(plan: Plan, compared: Sequence[Line]) -> Scores:
    """The scores of lines on the backbones where each of them is whole: the best of the baselines that happen to be
    finished may not be the best baseline."""
    whole = [name for name in plan.study.backbones if all(place(plan, line, name).is_whole for line in compared)]
    return {
        line.method: {name: [score.entry(place(plan, line, name)).value for score in ALL_SCORES] for name in whole}
        for line in compared
    }


def _of_perplexity(found: Scores, method: str, baselines: Sequence[str]) -> dict[str, float]:
    gains = relative_gains(found, method, baselines) if method in found else []
    return {one.backbone: 100 * one.value for one in gains if one.metric == PPL.name}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
