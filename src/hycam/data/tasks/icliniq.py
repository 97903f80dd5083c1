"""iCliniq: patients' questions and doctors' answers, as collected for ChatDoctor."""

from __future__ import annotations

from hycam.data.source_row import SourceRow
from hycam.data.tasks.base import Example, PaperCounts, Task
from hycam.data.tasks.columns import by_column_names
from hycam.data.tasks.sources import DataFolder, OnHub

_INSTRUCTION = "If you are a doctor, please answer the medical questions based on the patient's description."


def from_hub(row: SourceRow) -> Example:
    """The hub's rows have no instruction: each gets ChatDoctor's own. The doctor's answer is taken, not a model's."""
    return Example.of(row, instruction=_INSTRUCTION, input=row.text("input"), response=row.text("answer_icliniq"))


TASK = Task(
    name="icliniq",
    domain="medical advice",
    licence="research only",
    sources=(DataFolder("icliniq", by_column_names), OnHub("lavita/ChatDoctor-iCliniq", "main", from_hub)),
    remedy="Put icliniq.jsonl (instruction, input, output) into the folder that HYCAM_DATA names, or go online.",
    paper=PaperCounts(samples=7321, tokens=1_826_306),
)
