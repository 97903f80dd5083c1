from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hycam.data.mixture import Mixture
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError

DRAWN = ("proportional", "temperature", "equal", "weights")  # the strategies that draw a task first

seeds = st.integers(0, 2**70)
all_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6).map(
    lambda sizes: dict(zip("abcdef", sizes, strict=False))
)


def recipe(strategy: str, exhaustion: str, sizes: dict[str, int]) -> MixtureRecipe:
    weights = {name: 1.0 + place for place, name in enumerate(sizes)} if strategy == "weights" else {}
    return MixtureRecipe(strategy=strategy, exhaustion=exhaustion, weights=weights)  # type: ignore[arg-type]


def by_task(mixture: Mixture, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of each task, counted within it, in their order."""
    ends = np.cumsum(mixture.sizes)
    task = np.searchsorted(ends, rows, side="right")
    return [rows[task == number] - (ends - mixture.sizes)[number] for number in range(len(ends))]


def uses(mixture: Mixture, rows: np.ndarray) -> list[np.ndarray]:
    """How often each row was drawn, of each task."""
    return [np.bincount(own, minlength=n) for own, n in zip(by_task(mixture, rows), mixture.sizes, strict=True)]


def sequences(recipe: MixtureRecipe, chances: list[float], sizes: list[int]) -> dict[tuple[int, ...], float]:
    """The probability of every possible order of tasks in a first epoch, told from the words of the recipe."""
    rows = sum(sizes)

    def walk(drawn: tuple[int, ...], probability: float) -> Iterator[tuple[tuple[int, ...], float]]:
        left = [size - drawn.count(task) for task, size in enumerate(sizes)]
        now = chances
        if recipe.strategy == "concatenate":
            now = [float(n) for n in left]
        elif recipe.exhaustion == "drop":
            now = [chance * (n > 0) for chance, n in zip(chances, left, strict=True)]
        if len(drawn) == rows and (recipe.strategy == "concatenate" or recipe.exhaustion != "stop"):
            yield drawn, probability
            return
        for task, chance in enumerate(now):
            if not chance:
                continue
            onward = probability * chance / sum(now)
            if recipe.exhaustion == "stop" and recipe.strategy != "concatenate" and not left[task]:
                yield drawn, onward
            else:
                yield from walk((*drawn, task), onward)

    total: dict[tuple[int, ...], float] = defaultdict(float)
    for drawn, probability in walk((), 1.0):
        total[drawn] += probability
    return total


@settings(max_examples=40, deadline=None)
@given(all_sizes, seeds, st.sampled_from(["concatenate", *DRAWN]), st.integers(0, 9))
@example({"a": 1}, 2**64 - 9, "concatenate", 9)  # seed and epoch together are more than a generator takes
def test_concatenate_and_drop_draw_every_row_exactly_once(
    sizes: dict[str, int], seed: int, strategy: str, epoch: int
) -> None:
    mixture = Mixture(recipe(strategy, "drop", sizes), sizes, seed)
    assert len(mixture) == sum(sizes.values())
    assert sorted(mixture.epoch(epoch)) == list(range(len(mixture)))


@pytest.mark.parametrize("exhaustion", ["stop", "cycle", "drop"])
def test_exhaustion_has_no_meaning_where_tasks_are_concatenated(exhaustion: str) -> None:
    sizes = {"a": 30, "b": 5}
    mixture = Mixture(recipe("concatenate", exhaustion, sizes), sizes, 4)
    assert np.array_equal(mixture.epoch(2), Mixture(MixtureRecipe(), sizes, 4).epoch(2))


@settings(max_examples=40, deadline=None)
@given(all_sizes, seeds, st.sampled_from(DRAWN))
def test_stop_ends_where_a_task_is_used_up_and_goes_on_with_rows_not_yet_seen(
    sizes: dict[str, int], seed: int, strategy: str
) -> None:
    mixture = Mixture(recipe(strategy, "stop", sizes), sizes, seed)
    assert (mixture.counts(0) <= mixture.sizes).all() and (mixture.counts(0) == mixture.sizes).any()
    epochs = [by_task(mixture, mixture.epoch(number)) for number in range(6)]
    for task, (size, count) in enumerate(zip(mixture.sizes, mixture.counts(0), strict=True)):
        unrepeated = min(size // count, 6) if count else 6  # epochs before the task has to begin anew
        seen = np.concatenate([epoch[task] for epoch in epochs[:unrepeated]])
        assert len(np.unique(seen)) == len(seen) == unrepeated * count


@settings(max_examples=40, deadline=None)
@given(all_sizes, seeds, st.sampled_from(DRAWN), st.sampled_from(["stop", "cycle"]), st.integers(1, 8))
def test_over_epochs_the_rows_of_a_task_are_used_alike(
    sizes: dict[str, int], seed: int, strategy: str, exhaustion: str, epochs: int
) -> None:
    mixture = Mixture(recipe(strategy, exhaustion, sizes), sizes, seed)
    if exhaustion == "cycle":
        assert len(mixture) == sum(sizes.values())
    each = [mixture.epoch(number) for number in range(epochs)]
    for counts in uses(mixture, np.concatenate(each)):
        assert counts.max() - counts.min() <= 1
    for number, rows in enumerate(each):
        assert [len(own) for own in by_task(mixture, rows)] == mixture.counts(number).tolist()
        if exhaustion == "stop":  # a row is there again only where the task begins anew within the epoch
            assert all(counts.max() <= 2 for counts in uses(mixture, rows))


def test_a_task_begins_anew_only_when_all_its_rows_were_drawn_and_then_in_another_order() -> None:
    mixture = Mixture(MixtureRecipe("weights", weights={"a": 1, "b": 99}), {"a": 9_970, "b": 30}, 0)
    own = by_task(mixture, mixture.epoch(0))[1]
    passes = own[: len(own) // 30 * 30].reshape(-1, 30)
    assert len(passes) > 300
    assert (np.sort(passes, axis=1) == np.arange(30)).all()
    assert len(np.unique(passes, axis=0)) == len(passes)


def test_a_task_of_one_row_can_be_most_of_an_epoch() -> None:
    mixture = Mixture(MixtureRecipe("weights", weights={"a": 1, "b": 99}), {"a": 49_999, "b": 1}, 0)
    assert (mixture.epoch(3) == 49_999).sum() == mixture.counts(3)[1] > 49_000


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (MixtureRecipe("proportional"), [0.90, 0.09, 0.01]),
        (MixtureRecipe("temperature", temperature=2), np.sqrt([0.9, 0.09, 0.01]) / np.sqrt([0.9, 0.09, 0.01]).sum()),
        (MixtureRecipe("equal"), [1 / 3, 1 / 3, 1 / 3]),
        (MixtureRecipe("weights", weights={"a": 1, "c": 5, "b": 2}), [1 / 8, 2 / 8, 5 / 8]),
        (MixtureRecipe("concatenate"), [0.90, 0.09, 0.01]),
    ],
)
def test_the_shares_of_an_epoch_and_of_its_beginning_are_the_probabilities(
    mixture: MixtureRecipe, expected: list[float]
) -> None:
    sizes = {"a": 90_000, "b": 9_000, "c": 1_000}
    for seed in range(3):
        drawn = Mixture(mixture, sizes, seed)
        assert drawn.probabilities == pytest.approx(np.asarray(expected), rel=1e-12)
        for rows in (drawn.epoch(1), drawn.epoch(1)[:5_000]):
            sigma = np.sqrt(drawn.probabilities * (1 - drawn.probabilities) * len(rows))
            counts = np.array([len(own) for own in by_task(drawn, rows)])
            assert (np.abs(counts - drawn.probabilities * len(rows)) <= 5 * sigma).all()


@pytest.mark.parametrize("exhaustion", ["stop", "cycle", "drop", "concatenate"])
def test_orders_of_tasks_are_as_frequent_as_the_recipe_says(exhaustion: str) -> None:
    sizes, weights = [2, 1, 2], {"a": 0.6, "b": 0.3, "c": 0.1}
    made = MixtureRecipe() if exhaustion == "concatenate" else MixtureRecipe("weights", 2.0, weights, exhaustion)  # type: ignore[arg-type]
    expected = sequences(made, list(weights.values()), sizes)
    assert sum(expected.values()) == pytest.approx(1)
    task, trials = np.repeat(np.arange(3), sizes), 2_000
    found = Counter(
        tuple(task[Mixture(made, dict(zip("abc", sizes, strict=True)), seed).epoch(0)].tolist())
        for seed in range(trials)
    )
    assert set(found) <= set(expected)
    for order, probability in expected.items():
        sigma = max((trials * probability * (1 - probability)) ** 0.5, 1)
        assert abs(found[order] - trials * probability) <= 5 * sigma
    # All orders together: chi-squared has the mean and half the variance of its degrees of freedom.
    often = {order: trials * probability for order, probability in expected.items() if trials * probability >= 5}
    chi_squared = sum((found[order] - mean) ** 2 / mean for order, mean in often.items())
    assert abs(chi_squared - len(often)) <= 5 * (2 * len(often)) ** 0.5


def test_all_orders_of_concatenated_rows_are_equally_frequent() -> None:
    mixture = Mixture(MixtureRecipe(), {"a": 2, "b": 1, "c": 1}, 0)
    found = Counter(tuple(mixture.epoch(number)) for number in range(4_800))
    assert len(found) == 24
    assert all(abs(count - 200) <= 5 * 200**0.5 for count in found.values())


@pytest.mark.parametrize("exhaustion", ["stop", "cycle", "drop"])
def test_a_task_with_weight_zero_is_never_drawn(exhaustion: str) -> None:
    weights = {"a": 2.0, "b": 1.0, "c": 0.0}
    mixture = Mixture(MixtureRecipe("weights", 2.0, weights, exhaustion), {"a": 50, "b": 70, "c": 9}, 1)  # type: ignore[arg-type]
    assert mixture.probabilities[2] == mixture.counts(0)[2] == 0
    assert all((mixture.epoch(number) < 120).all() for number in range(20))


def test_only_the_ratios_of_weights_count() -> None:
    sizes = {"a": 50, "b": 70}
    one, other = (
        Mixture(MixtureRecipe("weights", weights=dict(zip("ab", pair, strict=True))), sizes, 1)
        for pair in [(1, 1), (1e308, 1e308)]
    )
    assert np.array_equal(one.epoch(0), other.epoch(0))


@pytest.mark.parametrize("strategy", ["concatenate", *DRAWN])
@pytest.mark.parametrize("exhaustion", ["stop", "cycle", "drop"])
def test_an_epoch_depends_on_the_seed_and_its_number_and_on_nothing_else(strategy: str, exhaustion: str) -> None:
    sizes = {"a": 40, "b": 25, "c": 60}
    made = recipe(strategy, exhaustion, sizes)
    mixture = Mixture(made, sizes, 7)
    epochs = [mixture.epoch(number).tolist() for number in range(5)]
    np.random.seed(1)
    resumed = Mixture(made, {f"other {name}": n for name, n in sizes.items()}, 7) if not made.weights else mixture
    assert [resumed.epoch(number).tolist() for number in (4, 2, 0)] == [epochs[4], epochs[2], epochs[0]]
    assert all(one != next_one for one, next_one in pairwise(epochs))
    assert Mixture(made, sizes, 8).epoch(0).tolist() != epochs[0]
    if strategy != "concatenate":  # which torch shuffles, with the lower half of the seed
        assert Mixture(made, sizes, 7 + 2**32).epoch(0).tolist() != epochs[0]


def test_the_limits_of_the_temperature_are_proportional_equal_and_the_largest_task_alone() -> None:
    sizes = {"a": 9_000, "b": 900, "c": 100}
    one = Mixture(MixtureRecipe("temperature", temperature=1), sizes, 0)
    assert np.array_equal(one.epoch(0), Mixture(MixtureRecipe("proportional"), sizes, 0).epoch(0))
    shares = [
        Mixture(MixtureRecipe("temperature", temperature=t), sizes, 0).probabilities for t in (1e-6, 1, 2, 5, 1e9)
    ]
    assert shares[0].tolist() == [1, 0, 0]
    assert shares[-1] == pytest.approx(np.full(3, 1 / 3))
    assert all(np.ptp(hotter) < np.ptp(colder) for colder, hotter in pairwise(shares))


def test_an_epoch_is_pinned() -> None:
    digest = hashlib.sha256()
    sizes = {"a": 300, "b": 100, "c": 20}
    for strategy in ("concatenate", *DRAWN):
        for exhaustion in ("stop", "cycle", "drop"):
            mixture = Mixture(recipe(strategy, exhaustion, sizes), sizes, 2333)
            digest.update(mixture.epoch(0).astype("<i8").tobytes() + mixture.epoch(3).astype("<i8").tobytes())
    assert digest.hexdigest() == "b416855ba420ebd4c407db8ad666e5534c3dc695f423cead1e6806509dcac04d"


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(HycamError, match=r"The seed is -1: a number of at least 0"):
        Mixture(MixtureRecipe(), {"a": 3}, -1)


def test_concatenated_rows_come_in_the_order_of_transformers_own_trainer() -> None:
    # Without settings of its own the Trainer shuffles with accelerate's sampler, seeded by training.seed and the epoch.
    mixture = Mixture(MixtureRecipe(), {"a": 5, "b": 9}, seed=2333)
    sampler = SeedableRandomSampler(data_source=range(14), data_seed=2333)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert mixture.epoch(epoch).tolist() == list(sampler)


def test_a_rare_task_is_drawn_in_some_epoch_whatever_the_seed() -> None:
    recipe = MixtureRecipe("weights", weights={"a": 1, "rare": 0.002})
    for seed in range(10):
        mixture = Mixture(recipe, {"a": 1000, "rare": 50}, seed)
        drawn = sum(int((mixture.epoch(number) >= 1000).sum()) for number in range(20))
        assert 10 < drawn < 90  # 42 expected in 21,000 draws; five sigma are 32
