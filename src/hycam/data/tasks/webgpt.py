"""WebGPT comparisons: long answers with citations, the better one of each pair."""

from __future__ import annotations

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import DataFolder, OnHub, PaperCounts, Task


def from_hub(row: SourceRow) -> Example:
    """The answer with the higher score, the first one on a tie. Comparisons of one question share a group."""
    better = "answer_1" if row.numeric("score_1") > row.numeric("score_0") else "answer_0"
    # The ends are blanks of the web page that the text was taken from.
    question = row.inside("question").text("full_text").strip()
    return Example(row.identity, instruction=question, response=row.text(better).strip())


TASK = Task(
    name="webgpt",
    domain="open questions with citations",
    licence="none stated",
    sources=(
        DataFolder("webgpt"),
        # The dataset itself is a script, which `datasets` no longer runs; this branch is the hub's conversion of it.
        OnHub("openai/webgpt_comparisons", "refs/convert/parquet", from_hub),
    ),
    remedy="Put webgpt.jsonl (instruction, input, output) into the folder that HYCAM_DATA names, or go online.",
    paper=PaperCounts(samples=18_994, tokens=13_988_895),
)
