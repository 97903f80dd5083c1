"""The files of a report and its page: one HTML file with its style, script and pictures inside; it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from hycam.files import whole_folder, write_whole
from hycam.machine import describe
from hycam.study.figures import save
from hycam.study.plan import Plan
from hycam.study.recipe import STUDY_FILE, StudyRecipe
from hycam.study.report.content import Content, Picture
from hycam.study.report.predictions import side_by_side
from hycam.study.report.summary import main_sentences, summary
from hycam.study.status import cell_states, counted, spelled
from hycam.study.tables import csv, latex, markdown

# With many points an SVG may be larger than a PNG at print resolution: above this size the page takes the smaller one.
LARGEST_SVG = 400_000

_FORMS = {"md": markdown, "tex": latex, "csv": csv}


def write(content: Content) -> Path:
    """Writes ``OUTPUT/report``, each file and folder replaced whole and the page last; returns the page's path.

    Raises:
        HycamError: the folder cannot be written or the disk is full; the old page is then still there.
    """
    folder = Path(content.plan.study.output) / "report"
    with whole_folder(folder / "tables") as made:
        for table in content.tables:
            for suffix, form in _FORMS.items():
                write_whole(made / f"{table.name}.{suffix}", form(table))
    with whole_folder(folder / "figures") as made:
        images = {picture.name: _image(picture, made) for picture in content.pictures}
    write_whole(folder / "statistics.json", _statistics(content))
    write_whole(folder / STUDY_FILE, settings(content.plan.study))
    write_whole(folder / "index.html", render(content, images, folder / STUDY_FILE))
    return folder / "index.html"


def _image(picture: Picture, folder: Path) -> str:
    """Saves a figure and returns it as a data URI, which keeps the identifiers of different SVGs apart."""
    by_suffix = {path.suffix: path for path in save(picture.figure, folder, picture.name)}
    chosen = by_suffix[".svg"]
    if chosen.stat().st_size > LARGEST_SVG:
        chosen = min(by_suffix.values(), key=lambda path: path.stat().st_size)
    kind = "svg+xml" if chosen.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(chosen.read_bytes()).decode()}"


def _statistics(content: Content) -> str:
    """All tests as JSON, with null for non-finite numbers."""
    as_dicts = {
        "comparisons": [asdict(one) for one in content.comparisons],
        "text_tests": [asdict(one) for one in content.text_tests],
    }
    plain = json.loads(json.dumps(as_dicts), parse_constant=lambda _: None)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


class Fact(NamedTuple):
    """A property of the cells' environment, with its values and the number of cells with each."""

    name: str
    values: list[tuple[str, int]]


def render(content: Content, images: Mapping[str, str], study_file: Path) -> str:
    """The page as HTML.

    Every text is escaped. A content security policy with the hashes of the page's own script and style forbids any
    other script and any request, whatever the data contain.

    Args:
        content: of the report.
        images: data URIs by the pictures' names.
        study_file: the YAML file with every setting, which the commands on the page name.
    """
    plan = content.plan
    style, script = _asset("page.css"), _asset("page.js")
    states, facts = cell_states(plan), environment(plan)
    return _template().render(
        content=content,
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=Markup(style),
        script=Markup(script),
        images=images,
        summary=summary(plan, content.comparisons),
        sentences=main_sentences(content.comparisons),
        tasks=side_by_side(plan),
        states=states,
        counts={state: number for state, number in counted(states).items() if number},
        spelled=spelled,
        facts=facts,
        warnings=warnings(facts),
        settings=settings(plan.study),
        commands=commands(plan.study, study_file),
        made_by=describe(),
    )


def environment(plan: Plan) -> list[Fact]:
    """Commit, machine and versions of the cells that have a result."""
    described = [one.content["environment"] for one in (*plan.results.done, *plan.results.failed)]
    if not described:
        return []
    columns = {"commit": [one["commit"] for one in described], "machine": [*map(_machine, described)]}
    for package in dict.fromkeys(name for one in described for name in one["versions"]):
        columns[package] = [one["versions"].get(package) for one in described]
    return [
        Fact(name, [(value or "unknown", count) for value, count in Counter(values).most_common()])
        for name, values in columns.items()
    ]


def warnings(facts: Iterable[Fact]) -> list[str]:
    """What makes cells hard to compare: several commits, machines or versions."""
    several = {fact.name: len(fact.values) for fact in facts if len(fact.values) > 1}
    found = []
    if "commit" in several:
        found.append(f"The cells come from {several.pop('commit')} different commits of this package.")
    if "machine" in several:
        found.append(
            f"The cells come from {several.pop('machine')} different machines: seconds, tokens per second and memory "
            "of different cells are not comparable, and rounding may differ."
        )
    if several:
        found.append(f"The cells were run with different versions of {', '.join(several)}.")
    return found


def settings(study: StudyRecipe) -> str:
    """Every setting of the study, defaults included, as YAML that ``hycam study`` reads."""
    return yaml.safe_dump(asdict(study), sort_keys=False, allow_unicode=True)


def commands(study: StudyRecipe, file: Path) -> list[str]:
    """The commands that reproduce the study and its report; ``file`` has :func:`settings`."""
    verbs = [f"hycam study {shlex.quote(str(file))}", f"hycam report {shlex.quote(str(file))}"]
    if study.learning_rates_from is not None:
        verbs.insert(0, f"hycam study {shlex.quote(study.learning_rates_from)}")
    return verbs


def _machine(described: Mapping[str, Any]) -> str:
    gpu = described["gpu"] or "no GPU"
    return f"{described['processor']}, {described['cores']} cores, {gpu}, {described['platform']}"


@cache
def _template() -> Template:
    return Environment(
        loader=PackageLoader("hycam.study.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.j2")


def _asset(name: str) -> str:
    return (files("hycam.study.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of an inline script or style in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
