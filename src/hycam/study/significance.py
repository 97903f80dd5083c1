"""Paired tests of two methods: t over folds, replicates or seeds, a bootstrap over rows, equivalence, and Holm's
correction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hycam.errors import HycamError

LEVEL = 0.05
"""Of every test; intervals hold with probability 1 - LEVEL."""

PAIRED = "paired t"
CORRECTED = "corrected t"
MACRO = "macro"
"""As the name of a task: the mean over tasks."""

RESAMPLES = 10_000
FEWEST_ROWS = 6
"""With fewer, no test of the signs reaches 5 %, while a percentile bootstrap can call anything significant."""

Scored = tuple[Sequence[str], np.ndarray, np.ndarray]
"""Of one cell and task: the rows' identities, their differences and their weights, all ``[rows]``."""

_DRAWN_AT_ONCE = 2**22  # rows, which keeps the memory below about 100 MB


@dataclass(frozen=True)
class TTest:
    """A t test of paired differences, in their unit.

    Attributes:
        mean: of the differences.
        low, high: 95 % interval of the mean.
        p: two-sided, that the mean is 0.
        df: degrees of freedom.
        n: differences.
        kind: ``PAIRED``, ``CORRECTED``, or a name that the caller gives.
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
    """A paired bootstrap over rows: what other rows would have given, with the very same adapters.

    Attributes:
        mean: the difference on the rows as they are.
        low, high: 2.5 and 97.5 percentile over the resamples.
        p: two-sided, that the difference is 0.
        rows: that were resampled.
        resamples: how often.
    """

    mean: float
    low: float
    high: float
    p: float
    rows: int
    resamples: int


def paired_t(differences: Sequence[float]) -> TTest:
    """Student's t for differences that are independent: ``t = mean / sqrt(s² / n)`` with n - 1 degrees of freedom.

    Differences that are all 0 have no t; their mean is 0 and p is 1.

    Raises:
        HycamError: fewer than two differences.
    """
    return _t(differences, 0.0, PAIRED)


def corrected_t(differences: Sequence[float], test_to_train: float) -> TTest:
    """The corrected resampled t (Nadeau and Bengio 2003) for folds whose training parts overlap.

    ``t = mean / sqrt((1/n + n_test/n_train) s²)`` with n - 1 degrees of freedom: the variance that independent folds
    would have, and that of what the folds share. It is approximate: the correlation is taken as n_test / (n_test +
    n_train), which is a rule and not measured.

    Args:
        differences: one of each fold.
        test_to_train: ``n_test/n_train``; 1/7 in the five folds.

    Raises:
        HycamError: fewer than two differences.
    """
    return _t(differences, test_to_train, CORRECTED)


def _t(differences: Sequence[float], shared: float, kind: str) -> TTest:
    """With ``(1/n + shared) s²`` for the variance of the mean."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise HycamError(f"A t test needs at least two differences, and there is {n}: run more folds or replicates.")
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
    # The one of statsmodels knows only the plain variance of the differences, not that of the corrected t.
    bound, error = math.log1p(margin), test.error
    if error == 0:
        return float(abs(test.mean) >= bound)
    above, below = (test.mean + bound) / error, (test.mean - bound) / error
    return float(max(stats.t.sf(above, test.df), stats.t.cdf(below, test.df)))


def equivalent(test: TTest, margin: float) -> bool:
    """Whether a tie is shown: :func:`tost` passes at 5 %, so the 90 % interval lies within the margin."""
    return tost(test, margin) < LEVEL


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given.

    The i-th smallest of m (from 0) becomes the largest of ``(m - j) p_j`` over j <= i, at most 1. The chance that any
    of those below 5 % is false is then at most 5 %, however the tests depend on one another.
    """
    return multipletests(p, method="holm")[1].tolist() if len(p) else []


def pooled(cells: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Differences and weights by row, each added up over the cells: a row that several seeds scored is drawn as one."""
    _, place = np.unique(np.concatenate([names for names, _, _ in cells]), return_inverse=True)
    differences, weights = (np.concatenate([cell[at] for cell in cells]) for at in (1, 2))
    return np.bincount(place, differences), np.bincount(place, weights)


def row_bootstrap(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]], resamples: int = RESAMPLES, seed: int = 2333
) -> dict[str, Bootstrap]:
    """Resamples rows with replacement within each task, and takes the difference per token anew each time.

    Of a task ``sum(difference) / sum(tokens)`` over the drawn rows, of ``MACRO`` the mean of these over tasks. The p
    value is twice the smaller share of resamples at or beyond 0, itself counted as one: at least 2 / (resamples + 1).

    Args:
        rows: of each task the difference of two methods' NLL, summed over a row's tokens, and these tokens; each
            ``[rows]``.
        resamples: how often.
        seed: of the drawing.

    Returns:
        By task, and for ``MACRO``.
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
    drawings = _drawings(len(difference), resamples, generator)
    return np.concatenate([difference[drawn].sum(axis=1) / tokens[drawn].sum(axis=1) for drawn in drawings])


def _drawings(rows: int, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Row numbers ``[some resamples, rows]``, so many at a time that memory is bounded."""
    at_once = max(1, _DRAWN_AT_ONCE // rows)
    for start in range(0, resamples, at_once):
        yield generator.integers(rows, size=(min(at_once, resamples - start), rows))


def _percentiles(mean: float, drawn: np.ndarray, rows: int) -> Bootstrap:
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    beyond = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    return Bootstrap(mean, low, high, min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)), rows, len(drawn))
