"""The report of a study: one page that needs nothing else, its tables and figures as files, its statistics as JSON.

::

    OUTPUT/report/index.html           everything, self-contained
    OUTPUT/report/tables/NAME.{md,tex,csv}
    OUTPUT/report/figures/NAME.{png,svg}
    OUTPUT/report/statistics.json      every test: of perplexity, and of the generated answers
    OUTPUT/report/study.yaml           every setting, as `hycam study` reads it
"""

from __future__ import annotations

from pathlib import Path

from hycam.study.plan import Plan
from hycam.study.report.content import gather
from hycam.study.report.files import write


def write_report(plan: Plan) -> Path:
    """Makes the report of a study, an unfinished or unbegun one too: what is missing is named with its reason.

    Returns:
        the page's path.

    Raises:
        HycamError: the study asks for a table that does not exist, or the folder cannot be written.
    """
    return write(gather(plan))
