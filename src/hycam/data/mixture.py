"""In which order the rows of several tasks are drawn: the same on every machine, and the same after a resume.

An epoch is drawn in two steps: how many rows it takes of each task, and then an order in which they merge. Under
independent draws every order of the same multiset of tasks is equally likely, so counts first and a random order after
are distributed exactly as draws one by one. All epochs are equally long, as a trainer wants it; under ``stop`` that
takes the counts of the first one for all.

Why not ``datasets.interleave_datasets``: it lays out a single epoch. Drawn anew, the next one would have another length,
and would not go on with the rows that this one left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import torch

from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError

_BLOCK = 4096  # rows: short permutations are made that many at a time, so that no task is too small to be quick


class Purpose(IntEnum):
    """What random numbers are for. The numbers stand in the seeds: a change changes every order."""

    COUNTS = 0
    ORDER = 1
    ROWS = 2
    GROUPS = 3
    PACKS = 4


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Random numbers of their own for every seed, purpose and ``numbers`` (of a task, an epoch ...)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *numbers))))


class Mixture:
    """The order in which rows are trained on: a function of the seed and the epoch alone.

    The rows of a task come from an endless series of permutations of them, and each epoch goes on in the series where
    the one before stopped. So at the end of any epoch, the rows of a task were drawn in all equally often, give or take
    one. Within a single epoch this holds where the epoch begins with a permutation: in epoch 0, and in every epoch for
    a task whose counts are multiples of its rows. Elsewhere a row may come at the end of one permutation and again at
    the beginning of the next, under ``stop`` too.

    Args:
        recipe: the proportions, and what happens when a task has no row left.
        sizes: rows of each task.
        seed: at least 0.

    Attributes:
        tasks: their names, in the order of ``sizes``.
        sizes: rows of each, ``[tasks]``.
        probabilities: of a draw to be of each task while all have rows left, ``[tasks]``; they sum to 1.
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
        # Under "cycle" an epoch is so many draws whatever their tasks, so each epoch may have counts of its own.
        number = epoch if self._recipe.exhaustion == "cycle" else 0
        return _counts(self._recipe, self.sizes, self.probabilities, generator(self.seed, Purpose.COUNTS, number))

    def wanted(self) -> dict[str, float]:
        """The probability of each task in a draw to which every task still has rows."""
        return dict(zip(self.tasks, self.probabilities.tolist(), strict=True))

    def epoch(self, number: int) -> np.ndarray:
        """The rows that epoch ``number`` (from 0) draws, in order: int64 ``[len]``.

        A row's index is global: the rows of the first task come first, then those of the second, and so on.
        """
        if self._recipe.strategy == "concatenate":
            # The order that transformers' Trainer gives the rows of one dataset under the same seed.
            shuffler = torch.Generator().manual_seed((self.seed + number) % 2**64)
            return torch.randperm(len(self), generator=shuffler).numpy()
        counts = self.counts(number)
        before = sum((self.counts(earlier) for earlier in range(number)), np.zeros_like(counts))
        drawn = np.flatnonzero(counts).tolist()
        rows = np.concatenate([self._offsets[task] + self._rows(task, before[task], counts[task]) for task in drawn])
        arrivals = np.concatenate([self._arrivals(task, number, counts[task]) for task in drawn])
        return rows[np.argsort(arrivals, kind="stable")]

    def _rows(self, task: int, start: int, count: int) -> np.ndarray:
        """``count`` rows of the task's series of permutations, from the place ``start``, counted from 0 in the task."""
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
        """When each row that the epoch takes of the task arrives, ascending, ``[count]``; the first goes first.

        Rows that arrive at rate p_i (after waiting times Exp(1) / p_i) are, at any time, next of task i with the
        probability p_i / Σ p over the tasks that still have rows: what ``drop`` asks for. Rows that arrive uniformly
        come in any order of the tasks with the same probability.
        """
        random = generator(self.seed, Purpose.ORDER, task, epoch)
        if self._recipe.exhaustion == "drop":
            return np.cumsum(random.standard_exponential(count)) / self.probabilities[task]
        return np.sort(random.random(count))


def _probabilities(recipe: MixtureRecipe, tasks: tuple[str, ...], sizes: np.ndarray) -> np.ndarray:
    shares = sizes / sizes.max()  # at most 1: no power of them overflows
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

    Under ``cycle`` they are those of as many independent draws as there are rows. Under ``stop``, let draws of task i
    arrive at rate p_i. The first that finds none of its n_i rows left arrives at a time Gamma(n_i + 1) / p_i; the
    earliest of these times ends the epoch. The n_i draws before it lie uniformly between 0 and it, so a binomial number
    of them, all n_i in the task that ends the epoch, has arrived by then.
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
