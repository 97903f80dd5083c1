"""The order in which rows of several tasks are drawn: the same on every machine, and after a resume.

An epoch is drawn in two steps: the number of rows of each task, and then their order. Under independent draws every
order of the same multiset of tasks is equally likely, so this is distributed exactly as single draws are. All epochs
are equally long, as trainers expect; so under ``stop``, all have the counts of the first one.

Why not ``datasets.interleave_datasets``: it arranges a single epoch. The next one would have another length, and would
not continue with the rows that this one did not draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import torch

from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError

_BLOCK = 4096  # rows: short permutations are drawn together up to this many, for speed


class Purpose(IntEnum):
    """What random numbers are for. The values are part of the seeds: changing one changes every order."""

    COUNTS = 0
    ORDER = 1
    ROWS = 2
    GROUPS = 3
    PACKS = 4


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """An independent stream for each seed, purpose and ``numbers`` (of a task, an epoch ...)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *numbers))))


class Mixture:
    """The order in which rows are trained on: a function of the seed and the epoch alone.

    The rows of a task come from an endless series of permutations, which each epoch continues where the previous one
    stopped. So after any epoch, all rows of a task were drawn equally often, to within one. Within a single epoch this
    holds if it begins with a permutation: in epoch 0, and always for a task whose counts are multiples of its rows.
    Otherwise a row may come at the end of one permutation and again at the beginning of the next, also under
    ``stop``.

    Args:
        recipe: the proportions, and what happens when a task runs out of rows.
        sizes: rows of each task.
        seed: at least 0.

    Attributes:
        tasks: their names, in the order of ``sizes``.
        sizes: rows of each, ``[tasks]``.
        probabilities: of each task in a draw while all have rows left, ``[tasks]``; they sum to 1.
        seed: as given.

    Raises:
        HycamError: the seed is below 0.
    """

    def __init__(self, recipe: MixtureRecipe, sizes: Mapping[str, int], seed: int) -> None:
        if seed < 0:
            raise HycamError(f"The seed is {seed}: a number of at least 0 was expected.")
        self.tasks = tuple(sizes)
        self.sizes = np.array(list(sizes.values()), dtype=np.int64)
        self.seed = seed
        self.probabilities = _probabilities(recipe, self.tasks, self.sizes)
        self._recipe = recipe
        self._offsets = np.cumsum(self.sizes) - self.sizes

    def __len__(self) -> int:
        """Draws in an epoch, the same in every one."""
        return int(self.counts(0).sum())

    def counts(self, epoch: int) -> np.ndarray:
        """Rows of each task that an epoch draws, ``[tasks]``."""
        # Under "cycle" the number of draws is fixed and their tasks vary, so each epoch has counts of its own.
        number = epoch if self._recipe.exhaustion == "cycle" else 0
        return _counts(self._recipe, self.sizes, self.probabilities, generator(self.seed, Purpose.COUNTS, number))

    def wanted(self) -> dict[str, float]:
        """The probability of each task in a draw while every task has rows left."""
        return dict(zip(self.tasks, self.probabilities.tolist(), strict=True))

    def epoch(self, number: int) -> np.ndarray:
        """The rows that epoch ``number`` (from 0) draws, in order: int64 ``[len]``.

        Indices are global: the rows of the first task come first, then those of the second, and so on.
        """
        if self._recipe.strategy == "concatenate":
            # The order in which transformers' Trainer shuffles a dataset under the same seed.
            shuffler = torch.Generator().manual_seed((self.seed + number) % 2**64)
            return torch.randperm(len(self), generator=shuffler).numpy()
        counts = self.counts(number)
        before = sum((self.counts(earlier) for earlier in range(number)), np.zeros_like(counts))
        drawn = np.flatnonzero(counts).tolist()
        rows = np.concatenate([self._offsets[task] + self._rows(task, before[task], counts[task]) for task in drawn])
        arrivals = np.concatenate([self._arrivals(task, number, counts[task]) for task in drawn])
        return rows[np.argsort(arrivals, kind="stable")]

    def _rows(self, task: int, start: int, count: int) -> np.ndarray:
        """``count`` rows of the task's series of permutations from place ``start`` on, numbered within the task."""
        size = int(self.sizes[task])
        together = -(-_BLOCK // size)  # permutations in a block
        length = together * size
        first, end = start // length, -(-(start + count) // length)
        blocks = [
            generator(self.seed, Purpose.ROWS, task, block).permuted(np.tile(np.arange(size), (together, 1)), axis=1)
            for block in range(first, end)
        ]
        skipped = start - first * length
        return np.concatenate(blocks, axis=None)[skipped : skipped + count]

    def _arrivals(self, task: int, epoch: int, count: int) -> np.ndarray:
        """Arrival times of the rows that the epoch draws of the task, ascending, ``[count]``.

        If rows arrive at rate p_i (after waiting times Exp(1) / p_i), the next one is of task i with probability
        p_i / Σ p over the tasks with rows left, as ``drop`` requires. With uniform times all orders of the tasks are
        equally likely.
        """
        random = generator(self.seed, Purpose.ORDER, task, epoch)
        if self._recipe.exhaustion == "drop":
            return np.cumsum(random.standard_exponential(count)) / self.probabilities[task]
        return np.sort(random.random(count))


def _probabilities(recipe: MixtureRecipe, tasks: tuple[str, ...], sizes: np.ndarray) -> np.ndarray:
    shares = sizes / sizes.max()  # at most 1, so no power overflows
    if recipe.strategy == "temperature":
        shares = shares ** (1 / recipe.temperature)
    elif recipe.strategy == "equal":
        shares = np.ones(len(tasks))
    elif recipe.strategy == "weights":
        shares = np.array([recipe.weights[name] for name in tasks], dtype=np.float64)
        shares /= shares.max()
    return shares / shares.sum()


def _counts(
    recipe: MixtureRecipe, sizes: np.ndarray, probabilities: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Rows of each task that an epoch draws, ``[tasks]``.

    Under ``cycle`` these are as many independent draws as there are rows. Under ``stop``, let draws of task i arrive at
    rate p_i. The first one to find none of its n_i rows left arrives at time Gamma(n_i + 1) / p_i, and the earliest of
    these times ends the epoch. The n_i draws before a task's own time are uniform on the interval up to it, so a
    binomial number of them has arrived at the end: all n_i of the task that ends the epoch.
    """
    possible = probabilities > 0
    if recipe.strategy == "concatenate" or recipe.exhaustion == "drop":
        return np.where(possible, sizes, 0)
    counts = np.zeros_like(sizes)
    if recipe.exhaustion == "cycle":
        counts[possible] = random.multinomial(sizes.sum(), probabilities[possible])
    else:
        refused = random.standard_gamma(sizes[possible] + 1) / probabilities[possible]
        counts[possible] = random.binomial(sizes[possible], refused.min() / refused)
    return counts
