"""The adapter that is looked into, and the figures drawn from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hycam.inspection.modulation import modulation_map
from hycam.inspection.representations import project, representations
from hycam.study.figures.adapters import adapted_cell, draw_modulation, draw_representations, opened
from hycam.study.plan import Plan
from hycam.study.results import Results
from hycam.study.tables.table import NotRun
from study.figures.drawn import legend, lines


def test_the_reference_is_looked_into_before_its_variants(trained: Plan) -> None:
    assert adapted_cell(trained).method == "HyCAM"
    others = [one for one in trained.results.done if one.method != "HyCAM"]
    assert adapted_cell(replace(trained, results=Results(others))).method == "Shared only"


def test_an_adapter_that_is_not_here_is_said_with_its_folder(trained: Plan, tmp_path: Path) -> None:
    moved = [replace(cell, recipe=replace(cell.recipe, output=str(tmp_path / cell.method))) for cell in trained.cells]
    with pytest.raises(NotRun, match=f"{tmp_path}/.*adapter, which is not here"):
        adapted_cell(replace(trained, cells=moved))
    lora = [one for one in trained.results.done if one.method == "LoRA"]
    with pytest.raises(NotRun, match="finished cell of HyCAM"):
        adapted_cell(replace(trained, results=Results(lora)))


def test_the_maps_are_the_modulation_of_the_response_sorted_by_feature(trained: Plan) -> None:
    figure = draw_modulation(trained, [])
    maps = {axes.get_title(): axes for axes in figure.axes if axes.images}
    assert list(maps) == ["sum", "shared", "specialised"]
    model, _, parts = opened(adapted_cell(trained))
    row = parts["counting"][0]
    found = modulation_map(model, row["input_ids"])
    response = slice(row["prompt_length"], row["prompt_length"] + 40)
    order = np.argsort(found.total[response].mean(axis=0))
    for name, values in (("sum", found.total), ("shared", found.shared), ("specialised", found.specialized)):
        np.testing.assert_allclose(maps[name].images[0].get_array(), values[response][:, order], rtol=1e-5)
        low, high = maps[name].images[0].get_clim()
        assert low == -high < 0
    labels = maps["sum"].get_yticklabels()
    assert not any(label.get_parse_math() for label in labels)
    names = [label.get_text() for label in labels]
    assert len(names) == len(row["input_ids"]) - row["prompt_length"]
    assert names[0] == "$"
    assert "\\n" in names


def test_a_study_without_texts_counts_the_tokens(trained: Plan) -> None:
    figure = draw_modulation(replace(trained, study=replace(trained.study, texts=False)), [])
    row = opened(adapted_cell(trained))[2]["counting"][0]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [str(place) for place in range(row["prompt_length"] + 1, len(row["input_ids"]) + 1)]


def test_a_variant_with_one_part_has_one_map(trained: Plan) -> None:
    only = [one for one in trained.results.done if one.method == "Shared only"]
    figure = draw_modulation(replace(trained, results=Results(only)), [])
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["shared"]


def test_both_panels_show_one_plane_with_the_distances(trained: Plan) -> None:
    figure = draw_representations(trained, [])
    off, on = figure.axes
    model, tokenizer, parts = opened(adapted_cell(trained))
    plane = project(representations(model, tokenizer, parts, 20))
    for axes, places, distance in ((off, plane.off, plane.distance_off), (on, plane.on, plane.distance_on)):
        drawn = lines(axes)
        assert list(drawn) == ["counting", "mirror"] == legend(figure)
        np.testing.assert_allclose([*drawn["counting"], *drawn["mirror"]], places)
        assert f"{distance:.3f}" in axes.get_title()
    assert off.get_xlim() == on.get_xlim()
    assert off.get_title().startswith("adapter off")
