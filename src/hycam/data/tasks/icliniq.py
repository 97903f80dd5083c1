"""iCliniq: patients' questions and doctors' answers, as collected for ChatDoctor."""

from __future__ import annotations

from hycam.data.rows import Example, SourceRow
from hycam.data.sources import DataFolder, OnHub, PaperCounts, Task

_INSTRUCTION = "If you are a doctor, please answer the medical questions based on the patient's description."


def from_hub(row: SourceRow) -> Example:
    """The hub's rows have no instruction: each gets ChatDoctor's own. The doctor's answer is taken, not a model's."""
    return Example(row.identity, instruction=_INSTRUCTION, input=row.text("input"), response=row.text("answer_icliniq"))


TASK = Task(
    name="icliniq",
    domain="medical advice",
    licence="research only",
    sources=(DataFolder("icliniq"), OnHub("lavita/ChatDoctor-iCliniq", "main", from_hub)),
    remedy="Put icliniq.jsonl (instruction, input, output) into the folder that HYCAM_DATA names, or go online.",
    paper=PaperCounts(samples=7321, tokens=1_826_306),
)
