"""The page: one HTML file with its style, its script and its pictures inside, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from hycam.machine import describe
from hycam.study.report import predictions
from hycam.study.report.content import Content
from hycam.study.report.provenance import cell_states, commands, counted, environment, settings, warnings
from hycam.study.report.summary import main_sentences, summary
from hycam.study.status import spelled


def render(content: Content, images: Mapping[str, str], study_file: Path) -> str:
    """The page as HTML.

    Every text is escaped. A content security policy, with the hash of the page's own script and style, forbids any
    other script and any request, whatever the texts of the data hold.

    Args:
        content: what the page says.
        images: by the picture's name, a data URI.
        study_file: where every setting lies as YAML; the commands name it.
    """
    plan = content.plan
    style, script = _asset("page.css"), _asset("page.js")
    states = cell_states(plan)
    facts = environment(plan)
    return _template().render(
        content=content,
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=Markup(style),
        script=Markup(script),
        images=images,
        summary=summary(plan, content.comparisons),
        sentences=main_sentences(content.comparisons),
        tasks=predictions.side_by_side(plan),
        states=states,
        counts=counted(states),
        spelled=spelled,
        facts=facts,
        warnings=warnings(facts),
        settings=settings(plan.study),
        commands=commands(plan.study, study_file),
        made_by=describe(),
    )


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
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
