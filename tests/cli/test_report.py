"""``hycam report``: a study file or a study's folder, from a real study on a tiny backbone to its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hycam.cli.main import main


@pytest.fixture
def study(backbone: str, tasks: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"title: Tiny\noutput: {tmp_path / 'out'}\nbackbones: {{Tiny: {backbone}}}\n"
        "methods: {LoRA: {name: lora, config: {r: 2}}, HyCAM: {name: hycam, config: {r: 4}}}\n"
        f"folds: [0, 1]\ndata: {{tasks: {json.dumps(tasks)}, max_length: 300}}\n"
        "training: {max_steps: 1, learning_rate: 1e-2, device: cpu}\n"
        "evaluation: {max_new_tokens: 4, generate_rows: 1}\n"
    )
    return path


def test_a_study_that_was_run_has_a_report_with_its_answers(
    study: Path, tmp_path: Path, capsys, inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hycam.study.report.content.FIGURES", {})  # the next test draws them
    assert main(["study", str(study)]) == 0
    capsys.readouterr()
    assert main(["report", str(study)]) == 0
    said = capsys.readouterr().out
    page = tmp_path / "out" / "report" / "index.html"
    assert f"Report: {page}" in said
    assert "The study is complete: 4 cells, all done." in said
    assert "On Tiny, mean over tasks, HyCAM against LoRA: perplexity" in said
    text = page.read_text(encoding="utf-8")
    assert "<article>\n<h4>LoRA</h4>" in text  # an answer that is on this machine

    moved = tmp_path / "moved"
    shutil.move(tmp_path / "out", moved)
    assert main(["report", str(moved)]) == 0  # the results are those in the folder, wherever it lies now
    assert f"Report: {moved}/report/index.html" in capsys.readouterr().out
    assert "<article>\n<h4>LoRA</h4>" in (moved / "report" / "index.html").read_text(encoding="utf-8")
    shutil.rmtree(moved / "runs")
    assert main(["report", str(moved), "--title", "Without texts"]) == 0
    text = (moved / "report" / "index.html").read_text(encoding="utf-8")
    assert "<title>Without texts</title>" in text
    assert "The texts of this row are in the run folders" in text


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_reported_without_data_and_backbone_as_its_study_is_with_them(
    study: Path, tasks: list[str], tmp_path: Path, capsys, inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.write_text(study.read_text() + f"runs: {tmp_path / 'runs'}\n")
    assert main(["study", str(study), "--cells", "3"]) == 0
    folder = tmp_path / "out"
    shutil.rmtree(tmp_path / "runs")
    assert main(["report", str(study)]) == 0
    with_data = tree(folder / "report")
    assert {"tables/data.md", "figures/cost.svg", "statistics.json"} <= set(with_data)
    shutil.rmtree(folder / "report")

    def elsewhere(*_: Any, **__: Any) -> None:
        pytest.fail("a report looked for the data or a backbone")

    for name in ("load_tokenizer", "prepare", "chosen_tasks"):
        monkeypatch.setattr(f"hycam.study.grid.{name}", elsewhere)
    for name in ("load_tokenizer", "chosen_tasks"):
        monkeypatch.setattr(f"hycam.study.counts.{name}", elsewhere)
    monkeypatch.delenv("HYCAM_DATA", raising=False)
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "empty"))
    for task in tasks:
        Path(task).rename(f"{task}.elsewhere")
    capsys.readouterr()
    try:
        assert main(["report", str(folder)]) == 0
    finally:
        for task in tasks:
            Path(f"{task}.elsewhere").rename(task)
    assert "of 4 cells, 3 done, 1 to go" in capsys.readouterr().out
    assert tree(folder / "report") == with_data


def test_what_is_said_of_the_data_is_said_once_for_all_folds(
    study: Path, tasks: list[str], tmp_path: Path, inline, caplog: pytest.LogCaptureFixture
) -> None:
    gap = tmp_path / "gap.jsonl"
    gap.write_text(Path(tasks[0]).read_text() + '{"instruction": "Nothing", "input": "", "output": ""}\n')
    study.write_text(study.read_text().replace(json.dumps(tasks), json.dumps([str(gap)])))
    assert main(["study", str(study), "--cells", "1"]) == 0
    caplog.clear()
    assert main(["report", str(study)]) == 0
    assert caplog.text.count("1 of 21 rows skipped") == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "a study file, or the folder of a study"),
        (["no-such.yaml"], 1, "no recipe no-such.yaml"),
        (["FOLDER"], 1, "not the folder of a study"),
        (["STUDY", "--no_such", "1"], 2, "no option --no_such"),
        (["STUDY", "--tables", "[coss]"], 1, '"cost"'),
    ],
)
def test_what_cannot_be_reported_is_explained(
    study: Path, tmp_path: Path, capsys, words: list[str], status: int, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    given = {"STUDY": str(study), "FOLDER": str(tmp_path / "folder")}
    assert main(["report", *(given.get(word, word) for word in words)]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
