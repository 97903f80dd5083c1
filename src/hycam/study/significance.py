"""Paired tests of two methods: t over folds, replicates or seeds, a bootstrap over rows, equivalence, and Holm's
correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hycam.errors import HycamError

LEVEL = 0.05
"""Of every test; intervals have coverage 1 - LEVEL."""

PAIRED = "paired t"
CORRECTED = "corrected t"
MACRO = "macro"
"""The name of the mean over tasks."""

RESAMPLES = 10_000
FEWEST_ROWS = 6
"""With fewer, no sign test reaches 5 %, while a percentile bootstrap can call anything significant."""

Scored = tuple[Sequence[str], np.ndarray, np.ndarray]
"""For one cell and task: the rows' identities, differences and weights, all ``[rows]``."""

_DRAWN_AT_ONCE = 2**22  # rows; keeps memory below about 100 MB


@dataclass(frozen=True)
class TTest:
    """A t test of paired differences, in their unit.

    Attributes:
        mean: of the ``n`` differences.
        low, high: 95 % interval of the mean.
        p: two-sided, that the mean is 0.
        df: degrees of freedom.
        kind: ``PAIRED``, ``CORRECTED``, or the caller's own name.
    """

    mean: float
    low: float
    high: float
    p: float
    df: int
    n: int
    kind: str

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return (self.high - self.low) / 2 / float(stats.t.ppf(1 - LEVEL / 2, self.df))


@dataclass(frozen=True)
class Bootstrap:
    """A paired bootstrap over rows: what other rows would have given with the same adapters.

    Attributes:
        mean: the difference on the original rows.
        low, high: 2.5 and 97.5 percentile over the resamples.
        p: two-sided, that the difference is 0.
        rows, resamples: their numbers.
    """

    mean: float
    low: float
    high: float
    p: float
    rows: int
    resamples: int


def percent(difference: float) -> float:
    """A difference of log-perplexity as a relative difference of perplexity, in percent; it may be infinite."""
    with np.errstate(over="ignore"):
        return 100 * float(np.expm1(difference))


def paired_t(differences: Sequence[float]) -> TTest:
    """Student's t for independent differences: ``t = mean / sqrt(s² / n)`` with n - 1 degrees of freedom.

    Differences that are all 0 have no t; then p is 1.

    Raises:
        HycamError: fewer than two differences.
    """
    return _t(differences, 0.0, PAIRED)


def corrected_t(differences: Sequence[float], test_to_train: float) -> TTest:
    """The corrected resampled t (Nadeau and Bengio 2003) for folds whose training parts overlap.

    ``t = mean / sqrt((1/n + n_test/n_train) s²)`` with n - 1 degrees of freedom: the variance of independent folds plus
    that of what the folds share. It is approximate: the correlation is taken as n_test / (n_test + n_train), which is a
    rule and not measured.

    Args:
        differences: one per fold.
        test_to_train: ``n_test/n_train``; 1/7 in the five folds.

    Raises:
        HycamError: fewer than two differences.
    """
    return _t(differences, test_to_train, CORRECTED)


def _t(differences: Sequence[float], shared: float, kind: str) -> TTest:
    """Takes ``(1/n + shared) s²`` as the variance of the mean."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise HycamError(f"A t test needs at least two differences, not {n}: run more folds or replicates.")
    mean = float(values.mean())
    error = math.sqrt((1 / n + shared) * values.var(ddof=1))
    if error == 0:
        return TTest(mean, mean, mean, float(mean == 0), n - 1, n, kind)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return TTest(mean, mean - half, mean + half, p, n - 1, n, kind)


def tost(test: TTest, margin: float) -> float:
    """p of two one-sided tests (Schuirmann 1987), that a difference of logarithms lies within ``± log(1 + margin)``.

    The larger of the two: that the mean is above ``-log(1 + margin)``, and that it is below ``log(1 + margin)``.
    """
    # Not statsmodels: its test only knows the plain variance of the differences, not that of the corrected t.
    bound, error = math.log1p(margin), test.error
    if error == 0:
        return float(abs(test.mean) >= bound)
    above, below = (test.mean + bound) / error, (test.mean - bound) / error
    return float(max(stats.t.sf(above, test.df), stats.t.cdf(below, test.df)))


def equivalent(test: TTest, margin: float) -> bool:
    """Whether :func:`tost` passes at 5 %: the 90 % interval lies within the margin, which shows a tie."""
    return tost(test, margin) < LEVEL


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the given order.

    The i-th smallest of m (from 0) becomes the largest of ``(m - j) p_j`` over j <= i, at most 1. However the tests
    depend on one another, the chance of any false one among those below 5 % is then at most 5 %.
    """
    # Not statsmodels: five more packages to install, and a full garbage collection at each call (0.05 s and more).
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


def pooled(cells: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Differences and weights by row, summed over the cells: a row scored with several seeds is drawn as one."""
    _, place = np.unique(np.concatenate([names for names, _, _ in cells]), return_inverse=True)
    differences, weights = (np.concatenate([cell[at] for cell in cells]) for at in (1, 2))
    return np.bincount(place, differences), np.bincount(place, weights)


def row_bootstrap(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]], resamples: int = RESAMPLES, seed: int = 2333
) -> dict[str, Bootstrap]:
    """Resamples rows with replacement within each task, and computes the difference per token each time.

    For a task it is ``sum(difference) / sum(tokens)`` over the drawn rows, for ``MACRO`` the mean of these over tasks.
    The p value is twice the smaller share of resamples at or beyond 0, counting the data themselves as one: at least
    2 / (resamples + 1).

    Args:
        rows: by task, the difference of two methods' NLL (summed over a row's tokens) and these tokens; ``[rows]``.
        resamples: their number.
        seed: of the random draws.

    Returns:
        by task, and for ``MACRO``.
    """
    generator = np.random.default_rng(seed)
    drawn = {name: _resampled(*of_task, resamples, generator) for name, of_task in rows.items()}
    means = {name: float(difference.sum() / tokens.sum()) for name, (difference, tokens) in rows.items()}
    counts = {name: len(difference) for name, (difference, _) in rows.items()}
    found = {name: _percentiles(means[name], drawn[name], counts[name]) for name in rows}
    macro = np.mean(list(drawn.values()), axis=0)
    found[MACRO] = _percentiles(math.fsum(means.values()) / len(means), macro, sum(counts.values()))
    return found


def _resampled(
    difference: np.ndarray, tokens: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """The difference per token in each resample: ``[resamples]``."""
    rows, found = len(difference), []
    at_once = max(1, _DRAWN_AT_ONCE // rows)  # bounds the memory
    for start in range(0, resamples, at_once):
        drawn = generator.integers(rows, size=(min(at_once, resamples - start), rows))
        found.append(difference[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    return np.concatenate(found)


def _percentiles(mean: float, drawn: np.ndarray, rows: int) -> Bootstrap:
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    beyond = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    return Bootstrap(mean, low, high, min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)), rows, len(drawn))
