"""What holds for every figure: legible, nothing cut off, reproducible, and a reason where cells are missing."""

from __future__ import annotations

import builtins
from functools import cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from hycam.errors import HycamError
from hycam.study.comparisons import compare
from hycam.study.figures import FIGURES, save
from hycam.study.figures.style import style
from hycam.study.plan import Plan
from hycam.study.results import Results
from hycam.study.tables.table import NotRun
from study.factory import FAILED, plan_of, study_of
from study.figures.drawn import texts
from study.figures.plans import PLANS

INSPECTED = ("modulation", "representations")


@cache
def plan_for(name: str) -> Plan:
    return PLANS[name]()


def draw(name: str, plan: Plan) -> Figure:
    compared = compare(plan.results, plan.primary) if name in ("forest", "size_trend") else []
    return FIGURES[name].draw(plan, compared)


def test_the_names_are_those_that_a_report_asks_for() -> None:
    assert set(FIGURES) == {*PLANS, *INSPECTED}
    assert all(one.title and one.caption.endswith(".") for one in FIGURES.values())


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_of_eight_points_at_least_within_the_page_and_apart(name: str, trained: Plan) -> None:
    figure = draw(name, trained if name in INSPECTED else plan_for(name))
    assert figure.get_figwidth() <= 7
    with style():
        places = dict(texts(figure))
    page = figure.bbox
    assert places
    for text, place in places.items():
        words = text.get_text()
        assert text.get_fontsize() >= 8, words
        inside = place.x0 >= -1 and place.y0 >= -1 and place.x1 <= page.x1 + 1 and place.y1 <= page.y1 + 1
        assert inside, f"{words!r} at {place} runs out of {page}"
    axes_with_labels = [] if name in INSPECTED else figure.axes  # a text of the data may have long tokens
    for labels in [found for axes in axes_with_labels for found in (axes.get_xticklabels(), axes.get_yticklabels())]:
        upright = [places[label] for label in labels if label in places and label.get_rotation() in (0, 90)]
        for one, other in pairwise(upright):
            across, down = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 1 or down <= 1, f"{name}: labels at {one} and {other}"


@pytest.mark.parametrize("name", FIGURES)
def test_without_its_cells_a_figure_gives_the_reason(name: str) -> None:
    study = study_of(folds=[0])
    for plan in (Plan(study, [], Results([])), plan_of(study, lambda cell: FAILED)):
        with pytest.raises(NotRun) as raised:
            FIGURES[name].draw(plan, [])
        assert str(raised.value).startswith("It needs ")


def test_it_is_written_twice_and_again_the_same(tmp_path: Path) -> None:
    plan = plan_for("learning_rates")
    first = save(draw("learning_rates", plan), tmp_path / "one", "rates")
    second = save(draw("learning_rates", plan), tmp_path / "two" / "deep", "rates")
    assert [path.name for path in first] == ["rates.png", "rates.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in first[1].read_text()


def test_drawing_leaves_no_state_behind() -> None:
    before = dict(matplotlib.rcParams)
    draw("expert_load", plan_for("expert_load"))
    assert dict(matplotlib.rcParams) == before


def test_a_missing_library_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for("cost")
    real = builtins.__import__

    def without(name: str, *rest, **named):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HycamError, match=r"pip install 'hycam\[study\]'"):
        FIGURES["cost"].draw(plan, [])
