"""Dolly: instructions and answers by the employees of Databricks.

Rows are grouped by context, which is the input here, if there is one.
"""

from __future__ import annotations

from hycam.data.sources import DataFolder, OnHub, PaperCounts, Task

TASK = Task(
    name="dolly",
    domain="general instructions",
    licence="CC BY-SA 3.0",
    sources=(
        DataFolder("dolly"),
        OnHub("databricks/databricks-dolly-15k", "bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a"),
    ),
    remedy="Put dolly.jsonl (instruction, input, output) into the folder that HYCAM_DATA names, or go online.",
    paper=PaperCounts(samples=15_015, tokens=3_061_007),
)
