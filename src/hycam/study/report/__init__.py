"""The report of a study: one page that needs nothing else, its tables and figures as files, its statistics as JSON.

::

    OUTPUT/report/index.html           everything, self-contained
    OUTPUT/report/tables/NAME.{md,tex,csv}
    OUTPUT/report/figures/NAME.{png,svg}
    OUTPUT/report/statistics.json      every test: of perplexity, and of the generated answers
    OUTPUT/report/study.yaml           every setting, as `hycam study` reads it
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path

from hycam.files import whole_folder, write_whole
from hycam.study.figures import save
from hycam.study.plan import STUDY_FILE
from hycam.study.report.content import Content, Picture
from hycam.study.report.page import render, settings
from hycam.study.tables import csv, latex, markdown

# Many points may make a larger SVG than a PNG of print resolution: beyond this many bytes the page has the smaller one.
LARGEST_SVG = 400_000

_FORMS = {"md": markdown, "tex": latex, "csv": csv}


def write(content: Content) -> Path:
    """Writes everything under ``OUTPUT/report``: each file whole, each folder replaced whole, the page last.

    Returns:
        the page's path.

    Raises:
        HycamError: the folder cannot be written or the disk is full; the page that was there is still there.
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
    """Saves a figure and gives it as a data URI; a URI keeps the identifiers of one SVG apart from the next one's."""
    by_suffix = {path.suffix: path for path in save(picture.figure, folder, picture.name)}
    chosen = by_suffix[".svg"]
    if chosen.stat().st_size > LARGEST_SVG:
        chosen = min(by_suffix.values(), key=lambda path: path.stat().st_size)
    kind = "svg+xml" if chosen.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(chosen.read_bytes()).decode()}"


def _statistics(content: Content) -> str:
    """All tests as JSON, with null for what is no finite number."""
    as_dicts = {
        "comparisons": [asdict(one) for one in content.comparisons],
        "text_tests": [asdict(one) for one in content.text_tests],
    }
    plain = json.loads(json.dumps(as_dicts), parse_constant=lambda _: None)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
