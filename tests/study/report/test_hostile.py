"""No text that a user, a data set or a result file brings becomes a part of the report: it is shown as it is."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import hycam.study.report.content as content_module
from hycam.cli.main import main
from hycam.data.recipe import DataRecipe, TaskRecipe
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod
from hycam.study.results import Result, Results
from hycam.study.significance import row_bootstrap
from hycam.training.run import Run
from study.factory import FAILED, plan_of, retention_of, routing_of, steady, study_of
from study.report.conftest import write_report

MARK = "hostile"
HOSTILE = (
    f'{MARK}</script></style></title></textarea><script>taken()</script><img src=x onerror="taken()">"\'>'
    "<svg/onload=taken()> --> ]]> {{ 7 * 7 }} {% raw %} javascript:taken() &lt;b&gt; $\\frac{$ \\input{x} | a & b_c "
    "\u2028\u2029 line\nend [x](javascript:taken()) `code` \x1b[2J"
)
HARMLESS = re.sub("[^ ]", "x", HOSTILE)  # of as many words, since BLEU-4 needs four


def made(folder: Path, added: str) -> Plan:
    """A study with ``added`` to every name, and in every text."""
    tasks = [TaskRecipe(name=f"{name} {added}", path=str(folder / "rows.jsonl")) for name in ("one", "two")]
    labels = {"LoRA": "lora", "HyCAM": "hycam"}
    study = study_of(
        {f"{label} {added}": StudyMethod(name) for label, name in labels.items()},
        folds=(0, 1, 2),
        data=DataRecipe(tasks=tasks, prompt=f"{{instruction}} {added}"),
        title=f"Study {added}",
        output=str(folder / "study"),
        backbones={f"tiny {added}": "smollm2-135m"},
        vary={"data.prompt": [f"{{instruction}} {added}"]},
        reference=f"HyCAM {added}",
    )
    levels = {label: 1.5 + at / 10 for at, label in enumerate(study.methods)}
    names = [task.name for task in tasks]
    of_tasks: dict[str, float] = dict.fromkeys(map(str, names), 0.25)
    nlls = steady(levels)
    plan = plan_of(
        study,
        lambda cell: FAILED if cell.fold == 2 else nlls(cell),
        rougeL=of_tasks,
        bleu4=of_tasks,
        retention=retention_of({"hellaswag": 0.1}),
        routing=lambda cell: routing_of(names) if cell.method.startswith("HyCAM") else None,  # type: ignore[arg-type]
    )
    cells = {cell.identity: cell for cell in plan.cells}
    done = [with_rows(one, added) for one in plan.results.done]
    for one in done:
        write_answers(Run(Path(cells[one.identity].recipe.output)), one, added)
    failed = [
        Result({**one.content, "failure": {"reason": f"no {added}", "step": None}}) for one in plan.results.failed
    ]
    unusable = {Path(cell.file_name): f"it is {added}" for cell in plan.cells if cell.identity == failed[0].identity}
    return replace(plan, results=Results(done, failed[1:], unusable))


def with_rows(one: Result, added: str) -> Result:
    """The result with its rows' identities and its environment marked."""
    rows = {
        task: {**kept, "row": [f"{row} {added}" for row in kept["row"]]}
        for task, kept in one.content["evaluation"]["rows"].items()
    }
    environment = {**one.content["environment"], "processor": f"a {added}", "commit": f"c {added}"}
    return Result(
        {**one.content, "evaluation": {**one.content["evaluation"], "rows": rows}, "environment": environment}
    )


def write_answers(run: Run, one: Result, added: str) -> None:
    folder = run.evaluation("test")
    folder.mkdir(parents=True)
    with (folder / "predictions.jsonl").open("w") as file:
        for task, kept in one.content["evaluation"]["rows"].items():
            for row, nll, tokens, rouge in zip(*(kept[k] for k in ("row", "nll", "tokens", "rougeL")), strict=True):
                texts = {name: f"{name} {added}" for name in ("prompt", "reference", "prediction")}
                figures = {"rougeL": rouge, "nll": nll, "tokens": tokens}
                file.write(json.dumps({"task": task, "row": row, **texts, **figures}) + "\n")


class Skeleton(HTMLParser):
    """Every element with the names of its attributes, the texts of scripts and styles, and where texts stand."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.code: list[str] = []
        self.shown: list[str] = []
        self.values: list[tuple[str, str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.code if self._inside in ("script", "style") else self.shown).append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("!", ()))


def skeleton(page: Path) -> Skeleton:
    found = Skeleton()
    found.feed(page.read_text(encoding="utf-8"))
    found.close()
    return found


SOME_FIGURES = ("interference", "routing")


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.soak)])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of the same study twice: with texts that would break a careless page, and with as many letters."""
    found = {}
    figures = {
        name: one for name, one in content_module.FIGURES.items() if request.param == "all" or name in SOME_FIGURES
    }
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(content_module, "FIGURES", figures)
        fewer.setattr("hycam.study.comparisons.row_bootstrap", partial(row_bootstrap, resamples=100))
        fewer.setattr("hycam.study.text_tests.BLEU_RESAMPLES", 20)
        for name, added in (("hostile", HOSTILE), ("harmless", HARMLESS)):
            folder = tmp_path_factory.mktemp(name)
            rows = [{"instruction": f"q {added} {n}", "output": f"a {added}"} for n in range(20)]
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            found[name] = write_report(made(folder, added))
    return found


def test_the_page_has_the_elements_and_attributes_of_the_harmless_one(pages: dict[str, Path]) -> None:
    hostile, harmless = (skeleton(pages[name]) for name in ("hostile", "harmless"))
    assert hostile.elements == harmless.elements
    assert hostile.code == harmless.code
    for name, value in hostile.values:
        if name in ("href", "src", "id", "http-equiv", "content"):
            assert MARK not in value and not value.strip().lower().startswith("javascript:")


def test_the_texts_are_shown_in_full_as_they_are(pages: dict[str, Path]) -> None:
    shown = "".join(skeleton(pages["hostile"]).shown)
    for before in ("Study", "tiny", "HyCAM", "LoRA", "one", "prompt", "reference", "prediction", "no", "it is", "a"):
        assert f"{before} {HOSTILE}" in shown, before


def test_a_figure_is_a_picture_without_code_and_its_svg_is_whole(pages: dict[str, Path]) -> None:
    pictures = sorted(pages["hostile"].parent.glob("figures/*.svg"))
    assert pictures
    for path in pictures:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "foreignObject", "img", "iframe", "a", "image", "handler"} - {"image"}, path.name
        names = {name for element in ElementTree.parse(path).iter() for name in element.attrib}
        assert not any(name.lower().startswith("on") for name in names)


def test_a_markdown_table_keeps_its_rows_and_makes_no_link_or_element(pages: dict[str, Path]) -> None:
    for path in sorted(pages["hostile"].parent.glob("tables/*.md")):
        text = path.read_text()
        plain = re.sub(r"\\[!-/:-@\[-`{-~]", "", text)  # what is escaped is text
        assert not re.search(r"<(?!/?u>)[a-zA-Z/!]", plain), path.name
        assert "](" not in plain and "`" not in plain and not re.search(r"&[#\w]+;", plain)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({plain_row.count("|") for plain_row in (re.sub(r"\\.", "", row) for row in rows)}) == 1, path.name
        assert len(text.splitlines()) == len(rows) + 4, path.name
        assert "\x1b" not in text


def test_a_latex_table_keeps_its_rows_and_runs_no_command_of_a_text(pages: dict[str, Path]) -> None:
    for path in sorted(pages["hostile"].parent.glob("tables/*.tex")):
        text = path.read_text()
        assert r"\input" not in text.replace(r"\textbackslash{}input", "")
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}"), path.name
        lines = text.splitlines()
        body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
        assert len({len(re.split(r"(?<!\\)&", line)) for line in body}) <= 1, path.name
        assert all(line.endswith(r"\\") for line in body)


def test_a_csv_has_a_cell_for_each_and_nothing_that_a_spreadsheet_would_compute(pages: dict[str, Path]) -> None:
    for path in sorted(pages["hostile"].parent.glob("tables/*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1, path.name


def test_the_other_files_are_what_they_are_called(pages: dict[str, Path]) -> None:
    kept = json.loads((pages["hostile"].parent / "statistics.json").read_text())
    assert any(HOSTILE in one["sentence"] for one in kept["comparisons"])


NAMES = ("a[bold]b.jsonl", "a\x1bb.jsonl", "a:smile:.jsonl", "<b>.jsonl", "{x}.jsonl", "%s.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_shown_on_a_console(
    name: str, backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text("".join(json.dumps({"instruction": f"q {n}", "output": "a"}) + "\n" for n in range(20)))
    for words in (["preview", str(path), "--tokenizer", backbone], ["stats", str(path), "--tokenizer", backbone],
                  ["split", str(path)]):  # fmt: skip
        assert main(["data", *words]) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if "\x1b" not in name:
        assert name.removesuffix(".jsonl") in said.out
