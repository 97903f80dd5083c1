from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hycam.errors import HycamError
from hycam.study.comparisons import SEEDS, Comparison, compare, starred
from hycam.study.family import PRIMARY, SECONDARY, Primary
from hycam.study.results import Result, Results
from hycam.study.significance import CORRECTED, MACRO, PAIRED, corrected_t, holm

pytestmark = pytest.mark.usefixtures("few_resamples")

TASKS = ("code", "talk")
HYCAM = Primary("HyCAM", ["LoRA"])


def cell(
    method: str,
    nll: float | Mapping[str, float],
    fold: int = 0,
    seed: int = 1,
    *,
    rows: int = 40,
    split: str = "folds",
    backbone: str = "Small",
    task: str | None = None,
    settings: Mapping[str, Any] | None = None,
    own_split: str | None = None,
    tasks: Sequence[str] = TASKS,
    names: str = "row",
    noise: float = 0.1,
    part: str = "test",
) -> Result:
    """A finished cell with these nats per token, about which its rows spread by ``noise``."""
    scored, figures = {}, {}
    for at, name in enumerate(tasks):
        mean = nll if isinstance(nll, float) else nll[name]
        generator = np.random.default_rng([at, fold, seed, *method.encode()])
        tokens = 10 + np.arange(rows) % 7
        spread = noise * generator.normal(size=rows)
        sums = tokens * (mean + spread - np.average(spread, weights=tokens))
        scored[name] = {"row": [f"{names}{fold}-{row:02}" for row in range(rows)], "nll": sums.tolist(),
                        "tokens": tokens.tolist(), "rougeL": [None] * rows}  # fmt: skip
        figures[name] = {"nll": mean if math.isfinite(mean) else None}
    own = [{"name": name, "split": {"by": own_split} if own_split else None} for name in tasks]
    return Result({
        "state": "done",
        "cell": {"backbone": backbone, "method": method, "fold": fold, "seed": seed, "task": task,
                 "settings": dict(settings or {})},
        "settings": {"data": {"split": {"by": split}, "tasks": own}},
        "evaluation": {"part": part, "tasks": figures, "rows": scored},
    })  # fmt: skip


def lost(method: str, fold: int, state: str = "diverged") -> Result:
    one = cell(method, 1.0, fold)
    return Result({"state": state, "cell": one.content["cell"], "settings": one.content["settings"]})


def study(nlls: Mapping[str, Sequence[float]], **how: Any) -> list[Result]:
    """Methods by their nats per token on each fold."""
    return [cell(method, value, fold, **how) for method, of_fold in nlls.items() for fold, value in enumerate(of_fold)]


def found(comparisons: list[Comparison], against: str = "LoRA", task: str = MACRO) -> Comparison:
    (one,) = [one for one in comparisons if (one.against, one.task) == (against, task)]
    return one


FOLDS = {"LoRA": [1.30, 1.26, 1.34, 1.29, 1.31], "HyCAM": [1.27, 1.24, 1.30, 1.27, 1.28]}


@pytest.mark.parametrize(("part", "to_train"), [("test", 1 / 7), ("validation", 2 / 7)])
def test_the_unit_is_the_difference_of_the_mean_nll_on_the_same_fold(part: str, to_train: float) -> None:
    one = found(compare(Results(study(FOLDS, part=part)), HYCAM), task="code")
    differences = [a - b for a, b in zip(FOLDS["HyCAM"], FOLDS["LoRA"], strict=True)]
    assert one.test == corrected_t(differences, to_train)
    assert (one.test.kind, one.test.df) == (CORRECTED, 4)


def test_macro_is_the_mean_over_tasks_of_the_differences() -> None:
    nlls = {"HyCAM": {"code": 1.0, "talk": 2.0}, "LoRA": {"code": 1.1, "talk": 2.3}}
    results = Results([cell(name, nll, fold) for name, nll in nlls.items() for fold in range(3)])
    by_task = {one.task: one.test.mean for one in compare(results, HYCAM) if one.test}
    assert by_task == {"code": pytest.approx(-0.1), "talk": pytest.approx(-0.3), MACRO: pytest.approx(-0.2)}


def test_disjoint_replicates_have_the_plain_t_of_scipy() -> None:
    one = found(compare(Results(study(FOLDS, split="disjoint")), HYCAM))
    expected = stats.ttest_rel(FOLDS["HyCAM"], FOLDS["LoRA"])
    assert one.test is not None and one.test.kind == PAIRED
    assert one.test.p == pytest.approx(expected.pvalue)
    assert "five disjoint replicates, paired t, df 4, Holm p" in one.sentence


def test_a_task_with_overlapping_folds_of_its_own_takes_the_correction_back() -> None:
    assert found(compare(Results(study(FOLDS, split="disjoint", own_split="folds")), HYCAM)).test.kind == CORRECTED
    assert found(compare(Results(study(FOLDS, split="disjoint", own_split="disjoint")), HYCAM)).test.kind == PAIRED


def test_seeds_are_averaged_within_the_fold_first() -> None:
    seeds = [cell(name, value + shift, fold, seed)
             for name, of_fold in FOLDS.items() for fold, value in enumerate(of_fold)
             for seed, shift in ((1, 0.02 * fold if name == "LoRA" else 0.0), (2, 0.0))]  # fmt: skip
    one = found(compare(Results(seeds), HYCAM))
    differences = [FOLDS["HyCAM"][fold] - FOLDS["LoRA"][fold] - 0.01 * fold for fold in range(5)]
    assert one.test is not None and one.test.n == 5
    assert (one.test.mean, one.test.p) == pytest.approx((np.mean(differences), corrected_t(differences, 1 / 7).p))


def test_seeds_of_one_fold_are_replicates_of_the_seed_alone() -> None:
    results = [cell(name, nll + shift, seed=seed) for name, nll in (("LoRA", 1.3), ("HyCAM", 1.2))
               for seed, shift in ((100, 0.0), (200, 0.01 if name == "LoRA" else 0.02), (300, 0.0))]  # fmt: skip
    one = found(compare(Results(results), HYCAM))
    assert one.test is not None and (one.test.kind, one.test.df) == (SEEDS, 2)
    assert one.test.p == pytest.approx(stats.ttest_1samp([-0.1, -0.09, -0.1], 0).pvalue)
    assert "three seeds of one fold, paired t, df 2" in one.sentence
    assert "about the seed alone" in one.sentence


def test_one_fold_has_a_bootstrap_and_no_t_test() -> None:
    one = found(compare(Results([cell("LoRA", 1.3), cell("HyCAM", 1.2)]), HYCAM))
    assert (one.test, one.holm_p, one.verdict) == (None, None, "not tested")
    assert one.bootstrap is not None and one.bootstrap.mean == pytest.approx(-0.1)
    assert "perplexity 9.52 % lower (one fold: a test needs two)" in one.sentence
    assert "Of these trained adapters alone, over 80 rows resampled: 9.52 % lower [" in one.sentence


def test_the_bootstrap_pools_the_rows_of_all_folds_and_counts_a_row_of_two_seeds_once() -> None:
    results = Results([cell(name, nll, fold, seed, rows=10) for name, nll in (("LoRA", 1.3), ("HyCAM", 1.2))
                       for fold in range(3) for seed in (1, 2)])  # fmt: skip
    one = found(compare(results, HYCAM), task="code")
    assert one.bootstrap is not None
    assert one.bootstrap.rows == 30
    assert one.bootstrap.mean == pytest.approx(-0.1)


def test_a_task_with_few_rows_has_no_bootstrap_and_neither_has_the_mean_over_tasks() -> None:
    one = found(compare(Results([cell("LoRA", 1.3, rows=5), cell("HyCAM", 1.2, rows=5)]), HYCAM))
    assert one.bootstrap is None
    assert "a task has fewer than six" in one.sentence


def test_holm_is_over_each_family_and_the_primary_one_is_over_all_tasks_at_the_stated_settings() -> None:
    nlls = {**FOLDS, "MultiLoRA": [1.31, 1.25, 1.32, 1.30, 1.30], "Full": [1.2, 1.3, 1.25, 1.3, 1.3]}
    every = [
        one
        for backbone in ("Small", "Large") for rows in (8, 32)
        for one in study(nlls, backbone=backbone, settings={"data.train_rows": rows})
    ]  # fmt: skip
    comparisons = compare(Results(every), Primary("HyCAM", ["LoRA", "MultiLoRA"], {"data.train_rows": 8}))
    assert len(comparisons) == 2 * 2 * 3 * 3  # backbones, settings, other methods, tasks with the mean over them
    mine = [one for one in comparisons if one.family == PRIMARY]
    assert [(one.backbone, one.against, one.task, one.settings["data.train_rows"]) for one in mine] == [
        (backbone, against, MACRO, 8) for backbone in ("Small", "Large") for against in ("LoRA", "MultiLoRA")
    ]
    for family, count in ((PRIMARY, "four"), (SECONDARY, "32")):
        of_family = [one for one in comparisons if one.family == family]
        assert [one.holm_p for one in of_family] == pytest.approx(holm([one.test.p for one in of_family if one.test]))
        assert all(f" over {count} {family} comparisons; approximate)" in one.sentence for one in of_family)


def test_what_is_asked_of_one_method_is_not_corrected_for_looks_at_single_tasks() -> None:
    one = found(compare(Results(study(FOLDS)), HYCAM))
    assert one.test is not None and one.holm_p == one.test.p
    explored = found(compare(Results(study(FOLDS)), Primary("HyCAM")))
    assert explored.test is not None and explored.holm_p == pytest.approx(3 * explored.test.p)


@pytest.mark.parametrize(
    ("nlls", "verdict", "says"),
    [
        ([1.20, 1.17, 1.24, 1.18, 1.21], "lower", "; approximate). A win. "),
        ([1.40, 1.37, 1.44, 1.38, 1.41], "higher", "; approximate). A loss. "),
        ([1.3001, 1.2602, 1.3398, 1.2901, 1.3097], "equivalent", "A tie: equivalent within 1 % (TOST, p"),
        ([1.20, 1.36, 1.24, 1.38, 1.21], "undecided", "Undecided: neither a difference nor a tie is shown."),
        ([1.296, 1.256, 1.336, 1.2861, 1.306], "lower", "A win, and yet within 1 % (TOST, p < 0.001)."),
    ],
)
def test_the_verdict_and_its_words(nlls: list[float], verdict: str, says: str) -> None:
    one = found(compare(Results(study({"LoRA": FOLDS["LoRA"], "HyCAM": nlls})), HYCAM))
    assert one.verdict == verdict
    assert says in one.sentence


def test_the_sentence_gives_percentages_of_perplexity_with_their_test() -> None:
    one = found(compare(Results(study(FOLDS)), HYCAM))
    assert one.test is not None and one.holm_p is not None
    mean, low, high = (100 * (math.exp(value) - 1) for value in (one.test.mean, one.test.low, one.test.high))
    assert one.sentence.startswith(
        f"On Small, mean over tasks, HyCAM against LoRA: perplexity {-mean:.2f} % lower [{low:+.2f}, {high:+.2f}] "
        f"(five folds, corrected t, df 4, Holm p = {one.holm_p:.3f} over one primary comparison; approximate)."
    )


def test_methods_that_are_identical_are_a_tie() -> None:
    results = study({"LoRA": [1.3] * 5, "HyCAM": [1.3] * 5}, noise=0.0)
    one = found(compare(Results(results), HYCAM))
    assert one.test is not None and one.bootstrap is not None
    assert (one.test.mean, one.test.p, one.bootstrap.p, one.verdict) == (0, 1, 1, "equivalent")
    assert "perplexity the same [+0.00, +0.00]" in one.sentence


def test_cells_that_diverged_failed_or_are_not_finished_are_left_out_and_named() -> None:
    results = study({"LoRA": FOLDS["LoRA"][:2], "HyCAM": FOLDS["HyCAM"]})
    one = found(compare(Results(results, [lost("LoRA", 2), lost("LoRA", 3, "failed")]), HYCAM))
    assert one.test is not None and one.test.n == 2
    assert one.sentence.endswith(
        "Left out: fold 2 (LoRA diverged), fold 3 (LoRA failed), fold 4 (LoRA is not finished)."
    )


def test_a_loss_that_is_no_number_leaves_its_cell_out() -> None:
    results = study(FOLDS)
    results[1] = cell("LoRA", {"code": 1.26, "talk": math.nan}, fold=1)
    one = found(compare(Results(results), HYCAM), task="code")
    assert one.test is not None and one.test.n == 4
    assert "Left out: fold 1 (LoRA has no finite loss on talk)." in one.sentence


def test_a_method_that_diverged_everywhere_is_said_to() -> None:
    comparisons = compare(Results(study({"HyCAM": [1.2, 1.3]}), [lost("LoRA", 0), lost("LoRA", 1)]), HYCAM)
    assert [(one.task, one.test, one.bootstrap, one.verdict) for one in comparisons] == [
        (MACRO, None, None, "not tested")
    ]
    assert "HyCAM against LoRA: not compared, since no fold has a finite loss of both." in comparisons[0].sentence
    assert "fold 0 (LoRA diverged), fold 1 (LoRA diverged)" in comparisons[0].sentence


@pytest.mark.parametrize("other", [{"names": "line"}, {"rows": 39}, {"tasks": ("code",)}])
def test_methods_that_were_scored_on_different_rows_are_refused_by_name(other: dict[str, Any]) -> None:
    with pytest.raises(HycamError, match=r"HyCAM on fold 0, seed 1, Small and LoRA on fold 0.*different rows of "):
        compare(Results([cell("LoRA", 1.3), cell("HyCAM", 1.2, **other)]), HYCAM)


def test_the_same_rows_in_another_order_are_the_same_rows() -> None:
    turned = cell("LoRA", 1.3)
    for rows in turned.content["evaluation"]["rows"].values():
        for name, values in rows.items():
            rows[name] = values[::-1]
    mine = cell("HyCAM", 1.2)
    assert compare(Results([turned, mine]), HYCAM) == compare(Results([cell("LoRA", 1.3), mine]), HYCAM)


def test_settings_and_backbones_are_never_mixed() -> None:
    results = [
        cell(name, nll, fold, backbone=backbone, settings={"data.train_rows": rows})
        for name, nll in (("LoRA", 1.3), ("HyCAM", 1.2))
        for fold in range(2) for backbone in ("Small", "Large") for rows in (32, 128)
        if (name, backbone, rows) != ("LoRA", "Large", 32)
    ]  # fmt: skip
    comparisons = compare(Results(results), HYCAM)
    kept = [(one.backbone, one.settings["data.train_rows"]) for one in comparisons if one.task == MACRO]
    assert kept == [("Small", 32), ("Small", 128), ("Large", 128)]
    assert comparisons[0].sentence.startswith("On Small, train_rows 32, mean over tasks, HyCAM against LoRA")


def test_the_backbone_as_it_is_stands_beside_every_setting_of_training() -> None:
    rates = (1e-4, 1e-3)
    base = [cell("Base", 2.0, fold, settings={}) for fold in range(2)]
    trained = [
        cell("HyCAM", 1.2, fold, settings={"training.learning_rate": rate}) for fold in range(2) for rate in rates
    ]
    over_all = [one for one in compare(Results(base + trained), HYCAM) if one.task == MACRO]
    assert [(one.against, one.settings["training.learning_rate"]) for one in over_all] == [
        ("Base", rate) for rate in rates
    ]


def test_training_on_one_task_alone_does_not_enter() -> None:
    alone = [cell(name, 9.0, fold, task="code") for name in FOLDS for fold in range(5)]
    assert compare(Results(study(FOLDS) + alone), HYCAM) == compare(Results(study(FOLDS)), HYCAM)


def test_without_the_reference_the_first_method_takes_its_place() -> None:
    comparisons = compare(Results(study({"LoRA": [1.3, 1.2], "MultiLoRA": [1.4, 1.3]})), HYCAM)
    assert {(one.method, one.against) for one in comparisons} == {("LoRA", "MultiLoRA")}
    assert compare(Results([]), HYCAM) == []


def test_the_asterisk_wants_every_method_of_the_primary_family_beaten() -> None:
    better = {"LoRA": FOLDS["LoRA"], "MultiLoRA": [one + 0.01 for one in FOLDS["LoRA"]],
              "Full": [1.0] * 5, "HyCAM": [one - 0.1 for one in FOLDS["LoRA"]]}  # fmt: skip

    def star(backbone: str, *against: str) -> bool:
        primary = Primary("HyCAM", against)
        return starred(compare(Results(study(better)), primary), backbone, primary)

    assert star("Small", "LoRA", "MultiLoRA")
    assert not star("Small", "LoRA", "MultiLoRA", "Full")
    assert not star("Small", "LoRA", "MultiLoRA", "RieMoE-LoRA")  # not run
    assert not star("Small")
    assert not star("Large", "LoRA")
    comparisons = compare(Results(study(better)), HYCAM)
    tasks_alone = [replace(one, verdict="undecided") if one.task == MACRO else one for one in comparisons]
    assert not starred(tasks_alone, "Small", HYCAM)
