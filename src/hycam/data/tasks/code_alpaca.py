"""CodeAlpaca: programming instructions, answered by a language model. 20,022 rows, 6 of them without an answer."""

from __future__ import annotations

from hycam.data.sources import DataFolder, OnHub, PaperCounts, Task

TASK = Task(
    name="code_alpaca",
    domain="code",
    licence="CC BY-NC 4.0",
    sources=(DataFolder("code_alpaca"), OnHub("sahil2801/CodeAlpaca-20k", "main")),
    remedy="Put code_alpaca.jsonl (instruction, input, output) into the folder that HYCAM_DATA names, or go online.",
    paper=PaperCounts(
        samples=20_222,
        tokens=2_195_523,
        remark="a misprint of 20,022: its mean of 109.66 tokens is that of 2,195,523 in 20,022 rows",
    ),
)
