"""Auto-CoT: arithmetic and common sense with machine-written chains of thought."""

from __future__ import annotations

from hycam.data.sources import DataFolder, PaperCounts, Task

TASK = Task(
    name="auto_cot",
    domain="step-by-step reasoning",
    licence="none stated",
    sources=(DataFolder("auto_cot"),),
    remedy=(
        "Take Auto-CoT.json from the Alpaca-CoT collection or from the paper's repository, write it as JSON lines with "
        "instruction, input and output, and set HYCAM_DATA to its folder; or name any such file in place of the task."
    ),
    paper=PaperCounts(samples=5816, tokens=943_474),
)
