"""The page in a real browser: wide and narrow, light and dark, by keyboard, without requests and without its script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hycam.study.report.content as content_module
from hycam.study.plan import Plan
from hycam.study.tables.table import Entry, Table
from study.report.browser import PROGRAM, Page, opened
from study.report.conftest import drawing, line, write_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

NUMBERS = ("10", "9", "not run", "100", "-1")


def _wide(plan: Plan, comparisons: object) -> Table:
    """Wider than any screen; its second column would sort otherwise as text."""
    rows = [
        [Entry(f"method {at}"), Entry(text, None if text == "not run" else float(text)), *[Entry("a word or two")] * 30]
        for at, text in enumerate(NUMBERS)
    ]
    return Table("wide", "A wide table", "", ["Method", "PPL", *(f"column {at}" for at in range(30))], rows)


@pytest.fixture
def page(plan: Plan, texts: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(content_module, "TABLES", {"wide": _wide})
    monkeypatch.setattr(content_module, "FIGURES", {"line": drawing(line)})
    texts()
    return write_report(plan)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_screen_or_fetched_or_refused(
    browser: Page, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, dark=dark)
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.evaluate("(box => box.scrollWidth > box.clientWidth)(document.querySelector('#table-wide .scroll'))")
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.title") == "A <b>study</b>"  # what the answers tried to change


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_its_ground(browser: Page, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    lowest = browser.evaluate(_CONTRAST)
    assert lowest["ratio"] >= 4.5, lowest  # WCAG 2.2, level AA


def test_tab_reaches_a_heading_and_enter_sorts_by_number(browser: Page, page: Path) -> None:
    browser.open(page)
    column = "[...document.querySelectorAll('#table-wide tbody tr')].map(row => row.cells[1].textContent.trim())"
    assert browser.evaluate(column) == list(NUMBERS)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.matches('#table-wide th button')"):
            break
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.textContent") == "PPL"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    heading = "document.activeElement.closest('th').getAttribute('aria-sort')"
    browser.press("Enter")
    assert (browser.evaluate(column), browser.evaluate(heading)) == (["-1", "9", "10", "100", "not run"], "ascending")
    browser.press("Enter")
    assert (browser.evaluate(column), browser.evaluate(heading)) == (["100", "10", "9", "-1", "not run"], "descending")
    browser.press("Enter")
    assert (browser.evaluate(column), browser.evaluate(heading)) == (list(NUMBERS), None)


def test_arrow_keys_and_selects_choose_the_one_row_that_is_shown(browser: Page, page: Path) -> None:
    browser.open(page)
    shown = "[...document.querySelectorAll('#rows .row')].filter(row => row.checkVisibility()).map(r => r.dataset.row)"
    assert browser.evaluate(shown) == ["dolly.jsonl:0"]
    browser.evaluate("document.getElementById('rows').focus()")
    browser.press("ArrowRight", 2)
    assert browser.evaluate(shown) == ["dolly.jsonl:2"]
    assert browser.evaluate("document.getElementById('position').textContent") == "Row 3 of 18"
    browser.press("ArrowLeft", 3)
    assert browser.evaluate(shown) == ["dolly.jsonl:2005"]  # the last one
    browser.evaluate("document.getElementById('choose-task').focus()")
    browser.press("ArrowDown")
    assert browser.evaluate(shown) == ["webgpt.jsonl:0"]
    browser.press("Tab")
    browser.press("ArrowDown")
    assert browser.evaluate(shown) == ["webgpt.jsonl:1"]
    browser.press("Tab", 2)
    browser.press("Enter")
    assert browser.evaluate(shown) == ["webgpt.jsonl:2"]
    answers = "[...document.querySelectorAll('#rows article')].filter(one => one.checkVisibility()).length"
    assert browser.evaluate(answers) == 3


def test_without_its_script_everything_can_be_read(browser: Page, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.evaluate("document.querySelectorAll('th button').length") == 0
        assert browser.evaluate("document.querySelectorAll('#rows .row:not([hidden]) > summary').length") == 36
        assert not browser.evaluate("document.querySelector('.switcher').checkVisibility()")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


_CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
  };
  let lowest = { ratio: Infinity };
  for (const element of document.querySelectorAll("body *")) {
    const speaks = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!speaks || !element.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < lowest.ratio) lowest = { ratio, text: element.textContent.slice(0, 40), ground: ground(element) };
  }
  return lowest;
})()"""
