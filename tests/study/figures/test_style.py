"""Labels are told apart without colour, and a legend has no more columns than fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.colors import to_rgb

from hycam.study.figures.style import (
    COLOURS,
    LINES,
    MARKERS,
    WIDTH,
    blank,
    legend_below,
    log_axis,
    looks,
    panels,
    style,
)
from study.figures.drawn import texts


def test_no_two_of_many_labels_look_alike_and_neighbours_differ_in_everything() -> None:
    found = list(looks(range(140)).values())
    assert len({tuple(one.items()) for one in found}) == 140
    for one, other in pairwise(found):
        assert all(one[what] != other[what] for what in ("color", "marker", "linestyle"))
    assert len(set(COLOURS)) == 7
    assert len(set(MARKERS)) == 10
    assert len(set(LINES)) == 4


@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_from_white(colour: str) -> None:
    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04 else part / 12.92 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) > 2


def test_a_panel_for_each_name_and_a_title_where_there_are_several() -> None:
    with style():
        figure, every = panels(["one", "two", "three"])
        assert [axes.get_title() for axes in every] == ["one", "two", "three"]
        assert len(figure.axes) == 3
        _, (single,) = panels(["alone"])
    assert single.get_title() == ""


def test_long_labels_stay_within_the_page() -> None:
    with style():
        figure = blank(3)
        axes = figure.subplots()
        for number in range(7):
            axes.plot([0, 1], [0, number], label=f"a method with a rather long name, number {number}")
        legend_below(figure)
        places = [place for _, place in texts(figure)]
    assert min(place.x0 for place in places) >= 0
    assert max(place.x1 for place in places) <= WIDTH * figure.dpi


def test_sizes_are_written_as_sizes_of_models_are() -> None:
    with style():
        figure = blank(3)
        axes = figure.subplots()
        axes.plot([4e8, 2e10], [0, 1])
        log_axis(axes, "parameters")
        shown = {text.get_text() for text, _ in texts(figure)}
    assert {"500M", "1B", "10B"} <= shown
