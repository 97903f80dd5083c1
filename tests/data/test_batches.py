from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import chain, islice

import datasets
import numpy as np
import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError

MODES: tuple[dict[str, bool], ...] = ({}, {"group_by_length": True}, {"packing": True})
NAMES = ("as they come", "grouped", "packed")
MAX_LENGTH = 64

seeds = st.integers(0, 2**40)
every_mode = pytest.mark.parametrize("mode", MODES, ids=NAMES)


def mixture(rows: int = 90, seed: int = 0, recipe: MixtureRecipe | None = None) -> Mixture:
    return Mixture(recipe or MixtureRecipe(), {"a": rows - rows // 3, "b": rows // 3}, seed)


def skewed(rows: int, seed: int = 0) -> np.ndarray:
    """Mostly short rows and a few of up to MAX_LENGTH tokens."""
    return np.clip(np.random.default_rng(seed).lognormal(2, 1, rows).astype(np.int32) + 1, 1, MAX_LENGTH)


def epoch(batches: Batches, number: int) -> list[list[int]]:
    batches.set_epoch(number)
    return list(batches)


def padded(batches: list[list[int]], lengths: np.ndarray) -> int:
    """Tokens of padding, where each batch is as long as its longest row."""
    return sum(len(batch) * lengths[batch].max() - lengths[batch].sum() for batch in batches)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 200), st.integers(1, 9), st.integers(0, 5), seeds)
def test_batches_as_they_come_are_the_draws_cut_into_pieces(rows: int, size: int, number: int, seed: int) -> None:
    drawn = mixture(rows, seed)
    batches = Batches(drawn, skewed(rows), size, MAX_LENGTH)
    made = epoch(batches, number)
    assert list(chain.from_iterable(made)) == drawn.epoch(number).tolist()
    assert all(len(batch) == size for batch in made[:-1]) and 0 < len(made[-1]) <= size
    assert len(made) == len(batches)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 400), st.integers(1, 5), st.integers(0, 5), seeds)
def test_grouped_batches_have_the_same_rows_in_every_window_and_the_longest_one_first(
    rows: int, size: int, number: int, seed: int
) -> None:
    drawn, lengths = mixture(rows, seed), skewed(rows, seed)
    batches = Batches(drawn, lengths, size, MAX_LENGTH, group_by_length=True)
    made, draws = epoch(batches, number), drawn.epoch(number)
    assert len(made) == len(batches)
    assert all(len(batch) == size for batch in made[:-1]) and 0 < len(made[-1]) <= size
    for start in range(0, len(made), 50):
        in_window = list(chain.from_iterable(made[start : start + 50]))
        assert sorted(in_window) == sorted(draws[start * size : (start + 50) * size])
    assert lengths[made[0]].max() == lengths[draws[: 50 * size]].max()


def test_grouping_shuffles_the_batches_of_each_window_in_its_own_way() -> None:
    lengths = np.arange(1, 801)
    made = epoch(Batches(mixture(800), lengths, 4, 800, group_by_length=True), 0)
    longest = np.array([lengths[batch].max() for batch in made]).reshape(4, 50)
    places = longest.argsort(axis=1)
    assert len(np.unique(places, axis=0)) == 4
    assert (np.abs(places - np.arange(50)).mean(axis=1) > 10).all()  # of a random order: 17 on average


def test_grouping_saves_most_of_the_padding() -> None:
    drawn, lengths = mixture(3_000), skewed(3_000)
    plain = Batches(drawn, lengths, 8, MAX_LENGTH)
    grouped = Batches(drawn, lengths, 8, MAX_LENGTH, group_by_length=True)
    assert padded(epoch(grouped, 1), lengths) < padded(epoch(plain, 1), lengths) / 10


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 120), seeds)
def test_packs_are_never_too_long_and_have_each_draw_once(rows: int, seed: int) -> None:
    drawn, lengths = mixture(rows, seed), skewed(rows, seed)
    batches = Batches(drawn, lengths, 1, MAX_LENGTH, packing=True)
    packs = [pack for number in range(4) for pack in epoch(batches, number)]
    assert all(0 < lengths[pack].sum() <= MAX_LENGTH for pack in packs)
    assert all(len(epoch(batches, number)) == len(batches) for number in range(4))
    stream = list(chain.from_iterable(packs))
    for number in range(len(stream) // rows):  # passes that the stream has wholly
        assert sorted(stream[number * rows : (number + 1) * rows]) == sorted(drawn.epoch(number))


def test_windows_of_1000_draws_are_packed_by_themselves_and_well() -> None:
    drawn, lengths = mixture(2_500), skewed(2_500)
    batches = Batches(drawn, lengths, 1, MAX_LENGTH, packing=True)
    packs = epoch(batches, 0)
    stream, draws = list(chain.from_iterable(packs)), drawn.epoch(0)
    for start in (0, 1_000, 2_000):
        assert sorted(stream[start : start + 1_000]) == sorted(draws[start : start + 1_000])
    assert len(packs) < 1.02 * lengths.sum() / MAX_LENGTH + 3
    first_window = [lengths[pack].max() for pack in packs[:100]]
    assert first_window != sorted(first_window, reverse=True)  # as the packing leaves them


@pytest.mark.parametrize("size", [2, 3, 7])
def test_micro_batches_of_packs_are_one_stream_over_windows_passes_and_epochs(size: int) -> None:
    drawn, lengths = mixture(1_100), skewed(1_100)
    one, several = (Batches(drawn, lengths, n, MAX_LENGTH, packing=True) for n in (1, size))
    packs = [pack for number in range(4) for pack in epoch(one, number)]
    made = [batch for number in range(3) for batch in epoch(several, number)]
    assert len(several) == -(-len(one) // size)
    assert made == [list(chain.from_iterable(packs[n * size : (n + 1) * size])) for n in range(len(made))]


def test_the_first_epoch_of_packs_has_every_row() -> None:
    for rows in (3, 20, 1_100):
        made = epoch(Batches(mixture(rows), skewed(rows), 4, MAX_LENGTH, packing=True), 0)
        assert set(chain.from_iterable(made)) == set(range(rows))


@every_mode
@pytest.mark.parametrize("recipe", [MixtureRecipe(), MixtureRecipe("equal", exhaustion="stop")], ids=["all", "stop"])
def test_any_epoch_is_the_same_whatever_was_made_before(mode: dict[str, bool], recipe: MixtureRecipe) -> None:
    def fresh() -> Batches:
        return Batches(mixture(1_300, 5, recipe), skewed(1_300), 4, MAX_LENGTH, **mode)

    batches = fresh()
    epochs = [epoch(batches, number) for number in range(3)]
    assert [epoch(fresh(), number) for number in (2, 0)] == [epochs[2], epochs[0]]
    assert {len(made) for made in epochs} == {len(fresh())}
    assert epochs[0] != epochs[1]
    assert epoch(Batches(mixture(1_300, 6, recipe), skewed(1_300), 4, MAX_LENGTH, **mode), 0) != epochs[0]
    running = iter(batches)  # of epoch 2: looking elsewhere meanwhile does not disturb it
    begun = list(islice(running, 3))
    epoch(batches, 1)
    assert begun + list(running) == epochs[2]


@pytest.fixture
def numbered() -> Callable[[int], datasets.Dataset]:
    return lambda rows: datasets.Dataset.from_dict({"row": list(range(rows))})


def rows_of(batch: list[dict[str, int]]) -> list[int]:
    return [row["row"] for row in batch]


@every_mode
def test_a_data_loader_takes_them(mode: dict[str, bool], numbered: Callable[[int], datasets.Dataset]) -> None:
    batches = Batches(mixture(), skewed(90), 4, MAX_LENGTH, **mode)
    for workers in (0, 1):
        loader = DataLoader(numbered(90), batch_sampler=batches, collate_fn=rows_of, num_workers=workers)
        assert len(loader) == len(batches)
        for number in range(2):
            batches.set_epoch(number)
            assert list(loader) == list(batches)


def test_packing_without_trl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(HycamError, match=r'pip install "hycam\[trl\]", or leave packing off'):
        len(Batches(mixture(), skewed(90), 4, MAX_LENGTH, packing=True))


@pytest.mark.parametrize("enabled", [True, False])
def test_packing_shows_no_bar_and_leaves_those_of_others_as_they_were(
    enabled: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    (datasets.enable_progress_bars if enabled else datasets.disable_progress_bars)()
    assert epoch(Batches(mixture(), skewed(90), 4, MAX_LENGTH, packing=True), 0)
    assert capfd.readouterr().err == ""
    assert datasets.is_progress_bar_enabled() == enabled


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 120), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), seeds, st.sampled_from(MODES[:2]))
def test_processes_together_have_the_batches_that_one_would_have(
    rows: int, size: int, number: int, wanted: int, seed: int, mode: dict[str, bool]
) -> None:
    drawn, lengths = mixture(rows, seed, MixtureRecipe("temperature")), skewed(rows, seed)
    alone = Batches(drawn, lengths, size * number, MAX_LENGTH, **mode)
    shares = [
        epoch(Batches(drawn, lengths, size, MAX_LENGTH, **mode, processes=number, process=index), wanted)
        for index in range(number)
    ]
    assert [len(share) for share in shares] == [len(alone)] * number
    for whole, *parts in zip(epoch(alone, wanted), *shares, strict=True):
        assert sorted(chain.from_iterable(parts)) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("number", [2, 3])
def test_processes_together_have_the_packs_that_one_would_have(number: int) -> None:
    drawn, lengths = mixture(200), skewed(200)
    alone = Batches(drawn, lengths, 2 * number, MAX_LENGTH, packing=True)
    shares = [Batches(drawn, lengths, 2, MAX_LENGTH, packing=True, processes=number, process=n) for n in range(number)]
    for wanted in (0, 1):
        made = [epoch(share, wanted) for share in shares]
        for whole, *parts in zip(epoch(alone, wanted), *made, strict=True):
            assert all(parts)  # the stream of packs has no end, so none is left without
            assert sorted(chain.from_iterable(parts)) == sorted(whole)


@every_mode
def test_the_epoch_reaches_the_batches_of_each_process_through_the_loaders_of_a_resumed_training(
    mode: dict[str, bool],
) -> None:
    batches = Batches(mixture(), skewed(90), 2, MAX_LENGTH, **mode, processes=2, process=1)
    loader = prepare_data_loader(DataLoader(list(range(90)), batch_sampler=batches, collate_fn=list), None, 1, 0)
    resumed = skip_first_batches(loader, 3)
    resumed.set_epoch(1)
    resumed.batch_sampler.batch_sampler.set_epoch(1)  # as the Trainer does beside
    rest = [list(map(int, batch)) for batch in resumed]
    loader.set_epoch(2)
    whole = [list(map(int, batch)) for batch in loader]
    again = Batches(mixture(), skewed(90), 2, MAX_LENGTH, **mode, processes=2, process=1)
    assert rest == epoch(again, 1)[3:]
    assert whole == epoch(again, 2)
