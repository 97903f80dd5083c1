from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hycam.evaluation.batching import batches_by_length, pad, padding_mask


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 100)))
def test_every_row_is_in_one_batch_that_keeps_the_limits(lengths, batch_size, batch_tokens):
    batches = list(batches_by_length(lengths, batch_size, batch_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert batch_tokens is None or len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens
    longest_first = [lengths[index] for batch in batches for index in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_rows_of_one_length_keep_their_order():
    assert list(batches_by_length([5, 7, 5, 7], batch_size=2)) == [[1, 3], [0, 2]]


def test_padding_goes_to_the_named_side_and_is_masked_by_position():
    rows = [[4, 1], [5, 6, 1]]
    assert pad(rows, 1, "right").tolist() == [[4, 1, 1], [5, 6, 1]]
    assert pad(rows, 1, "left").tolist() == [[1, 4, 1], [5, 6, 1]]
    assert padding_mask(rows, "right").tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padding_mask(rows, "left").tolist() == [[0, 1, 1], [1, 1, 1]]
