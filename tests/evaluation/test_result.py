from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hycam.evaluation.result import METRICS_FILE, PREDICTIONS_FILE, Evaluation

ENTRY = {"task": "one", "row": "a:1", "prompt": "say\nit", "prediction": 'né\u2028 "x"', "reference": "犬", "nll": 1.5}
RESULT = Evaluation(
    tasks={"one": {"perplexity": float("inf"), "nll": 800.0, "tokens": 3, "bleu4": None}},
    macro={"perplexity": 2.5},
    pooled={"perplexity": 2.5},
    bleu_signature="nrefs:1",
    max_new_tokens=8,
    predictions=[ENTRY, {**ENTRY, "row": "a:2", "prediction": None}],
)


def test_what_is_written_reads_back_as_it_was(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "new" / "folder")
    written = tmp_path / "new" / "folder"
    assert sorted(path.name for path in written.iterdir()) == [METRICS_FILE, PREDICTIONS_FILE]
    metrics = json.loads((written / METRICS_FILE).read_text(encoding="utf-8"))
    assert metrics == {**RESULT.metrics, "tasks": {"one": {**RESULT.tasks["one"], "perplexity": None}}}
    lines = (written / PREDICTIONS_FILE).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == RESULT.predictions


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    RESULT.write(tmp_path)
    replace(RESULT, max_new_tokens=9, predictions=[]).write(tmp_path)
    assert json.loads((tmp_path / METRICS_FILE).read_text())["max_new_tokens"] == 9
    assert (tmp_path / PREDICTIONS_FILE).read_text() == ""
