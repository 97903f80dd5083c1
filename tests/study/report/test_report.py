"""The report's files and what the page holds: complete, escaped, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import hycam.study.report.content as content_module
from hycam.errors import HycamError
from hycam.study.figures import FIGURES
from hycam.study.plan import Plan
from hycam.study.report.content import gather
from hycam.study.results import Results
from hycam.study.tables.scores import main_table
from hycam.study.tables.table import Entry, NotRun, Table
from study.report.conftest import drawing, line, write_report


def _table(plan: Plan, comparisons: object) -> Table:
    rows = [
        [Entry("<i>LoRA</i>"), Entry("4.95", 4.954321), Entry("10", 10.0, best=True, star=True)],
        [Entry("HyCAM"), Entry("4.86", 4.86, best=True), Entry("9", 9.0, second=True)],
        [Entry("base"), Entry("not run", muted=True), Entry("100", 100.0)],
    ]
    return Table("main", "Table 2 & more", "A note.", ["Method", "PPL", "rows"], rows, [("", 1), ("Scores", 2)])


def _missing(plan: Plan, comparisons: object) -> Table:
    raise NotRun("the cells of <five> sizes")


def _points(plan: Plan, comparisons: object) -> Any:
    """So many that the SVG is far larger than the PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().scatter(range(8000), range(8000))
    return figure


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "TABLES", {"main": _table, "sizes": _missing})
    monkeypatch.setattr(content_module, "FIGURES", {"line": drawing(line), "map": drawing(_missing, "A map")})


class _Reader(HTMLParser):
    """Every element with its attributes and its own text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}, []))  # what follows is not the element's

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.elements[-1][2].append(data)

    def all(self, tag: str) -> Iterator[tuple[dict[str, str | None], str]]:
        return ((attributes, "".join(texts)) for name, attributes, texts in self.elements if name == tag)


def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_the_report_has_its_page_and_every_table_figure_and_statistic_as_a_file(plan: Plan) -> None:
    page = write_report(plan)
    assert page == Path(plan.study.output) / "report" / "index.html"
    found = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}
    assert found == {"index.html", "statistics.json", "study.yaml", "tables/main.md", "tables/main.tex",
                     "tables/main.csv", "figures/line.png", "figures/line.svg"}  # fmt: skip
    assert yaml.safe_load((page.parent / "study.yaml").read_text())["methods"].keys() == plan.study.methods.keys()
    kept = json.loads((page.parent / "statistics.json").read_text())["comparisons"]
    expected = gather(plan).comparisons
    assert [(one["against"], one["task"], one["sentence"]) for one in kept] == [
        (one.against, one.task, one.sentence) for one in expected
    ]
    assert kept[0]["test"]["mean"] == expected[0].test.mean


def test_a_number_that_json_has_no_word_for_is_null(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = content_module.compare
    monkeypatch.setattr(
        content_module, "compare", lambda *given: [replace(one, holm_p=float("nan")) for one in compare(*given)]
    )
    kept = json.loads(
        (write_report(plan).parent / "statistics.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert {one["holm_p"] for one in kept["comparisons"]} == {None}


def test_generated_answers_are_tested_where_their_texts_are(
    plan: Plan, texts: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "TABLES", {"comparisons": _table})
    (without,) = (table for table in gather(plan).tables if table.name == "text_tests")
    assert "not on this machine" in without.note
    texts()
    content = gather(plan)
    (table,) = (table for table in content.tables if table.name == "text_tests")
    lines = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert [(line["Against"].text, line["Task"].text) for line in lines] == [
        (against, task) for against in ("LoRA", "MultiLoRA") for task in ("dolly", "webgpt", "all rows")
    ]
    tested = {(one.against, one.task, one.metric): one for one in content.text_tests}
    first = tested["LoRA", "dolly", "rougeL"]
    assert [lines[0][f"ROUGE-L {name}"].value for name in ("Method", "Against", "p")] == [0.25, 0.25, first.p]
    assert lines[0]["BLEU-4 p"].value == tested["LoRA", "dolly", "bleu4"].p
    assert lines[0]["Answers"].text == "12"
    kept = json.loads((write_report(plan).parent / "statistics.json").read_text())["text_tests"]
    assert len(kept) == len(tested) == 12


def test_a_report_without_texts_has_none(plan: Plan, texts: Callable[..., None]) -> None:
    texts(lambda one, entry: {**entry, "prediction": "An answer"})
    private = ("Asked: ", "As it is", "An answer")
    shown, kept = (
        write_report(replace(plan, study=replace(plan.study, texts=with_texts))).read_text(encoding="utf-8")
        for with_texts in (True, False)
    )
    assert all(text in shown for text in private)
    assert not any(text in kept for text in private)
    assert "texts: false" in kept


def test_the_page_loads_nothing_and_runs_its_own_script_alone(plan: Plan) -> None:
    page = write_report(plan)
    reader = _read(page)
    for _, attributes, _ in reader.elements:
        assert "style" not in attributes  # the policy below would refuse it
        assert attributes.get("src", "data:").startswith("data:")
        assert not (attributes.get("href") or "").startswith(("http", "//"))
    assert not list(reader.all("link"))
    (policy,) = (a["content"] for a, _ in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        ((_, text),) = reader.all(tag)
        assert f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" in policy


def test_entries_carry_their_value_and_their_marks(plan: Plan) -> None:
    text = write_report(plan).read_text()
    assert '<td class="number" data-value="4.954321"><span>4.95</span></td>' in text
    assert '<td class="number best" data-value="10.0"><span>10</span><sup>*</sup></td>' in text
    assert '<td class="number second" data-value="9.0"><span>9</span></td>' in text
    assert '<td class="number muted"><span>not run</span></td>' in text
    assert '<th scope="row"><span>&lt;i&gt;LoRA&lt;/i&gt;</span></th>' in text
    assert '<th colspan="2" scope="colgroup">Scores</th>' in text
    assert "Table 2 &amp; more" in text


def test_what_could_not_be_made_is_named_with_its_reason(plan: Plan) -> None:
    text = write_report(plan).read_text()
    assert "<b>sizes</b>: the cells of &lt;five&gt; sizes" in text
    assert "<b>A map</b>: the cells of &lt;five&gt; sizes" in text


def test_cells_that_failed_are_named_and_the_commands_are_there(plan: Plan) -> None:
    text = write_report(plan).read_text()
    assert re.search(r"MultiLoRA, fold 1, seed 2333: <span[^>]*>diverged</span> at step 7", text)
    assert re.search(r"MultiLoRA, fold 2, seed 2333: <span[^>]*>failed</span>\. no disk", text)
    assert f"hycam report {plan.study.output}/report/study.yaml" in text
    assert "0" * 40 in text


def test_pictures_have_an_alternative_text_and_are_vector_graphics_up_to_a_size(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((image, _),) = _read(write_report(plan)).all("img")
    assert image["alt"] == "A <drawing>"
    assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    monkeypatch.setattr(content_module, "FIGURES", {"points": drawing(_points)})
    ((image, _),) = _read(write_report(plan)).all("img")
    kept = (Path(plan.study.output) / "report" / "figures" / "points.png").read_bytes()
    assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) == kept


def test_tables_and_figures_of_an_earlier_report_do_not_stay_beside_the_page(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_report(plan).parent
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr(content_module, "TABLES", {"sizes": _missing})
    write_report(plan)
    assert not list((folder / "tables").iterdir())
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize(("library", "drawn"), [("matplotlib", False), ("sklearn", True)])
def test_without_a_plot_library_there_is_a_report_that_says_what_to_install(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, library: str, drawn: bool
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    page = write_report(plan)
    assert f"Some figures need {library}: pip install &#39;hycam[study]&#39;" in page.read_text()
    assert "Table 2" in page.read_text()
    assert (page.parent / "figures" / "line.svg").exists() == drawn


def test_a_figure_that_cannot_be_made_does_not_cost_the_report(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(plan: Plan, comparisons: object) -> Any:
        raise HycamError("The run folder is on another machine.")

    monkeypatch.setattr(content_module, "FIGURES", {"line": drawing(line), "map": drawing(elsewhere, "A map")})
    page = write_report(plan)
    assert "<b>A map</b>: The run folder is on another machine." in page.read_text()
    assert (page.parent / "figures" / "line.svg").exists()


def test_everything_of_a_study_without_a_result_is_not_run_and_its_data_are_told(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "TABLES", {"data": _table, "main": main_table})
    monkeypatch.setattr(content_module, "FIGURES", FIGURES)
    empty = replace(plan, results=Results([]), waits_for="The sweep x.yaml has 3 cells to go.")
    made = gather(empty)
    assert [one.title for one in made.tables] == ["Table 2 & more"]
    assert "No cell of this study has finished yet" in made.missing_tables[0].reason
    assert not made.pictures
    text = write_report(empty).read_text()
    assert "Not run" in text and "The sweep x.yaml has 3 cells to go." in text


def test_a_study_of_which_every_cell_failed_has_a_report(plan: Plan) -> None:
    page = write_report(replace(plan, results=Results([], plan.results.failed)))
    assert "1 diverged" in page.read_text()


def test_only_the_tables_that_a_study_asks_for_are_made_and_a_misspelt_one_is_an_error(plan: Plan) -> None:
    made = gather(replace(plan, study=replace(plan.study, tables=["sizes"])))
    assert [made.tables, [one.title for one in made.missing_tables]] == [[], ["sizes"]]
    with pytest.raises(HycamError, match='"sizes"'):
        write_report(replace(plan, study=replace(plan.study, tables=["size"])))
