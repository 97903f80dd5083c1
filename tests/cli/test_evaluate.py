"""What `hycam evaluate` does with retention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hycam.cli.main import main


@pytest.fixture
def run(backbone: str, tasks: list[str], tmp_path: Path) -> Path:
    """The run folder of the backbone as it is."""
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = {
        "backbone": backbone,
        "output": str(folder),
        "method": {"name": "base"},
        "data": {"tasks": tasks, "max_length": 300},
        "training": {"device": "cpu", "precision": "float32"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.mark.real
def test_retention_is_measured_shown_and_kept_and_nothing_else_is_done(run: Path, capsys) -> None:
    asked = ["evaluate", str(run), "--retention.tasks", "[openbookqa, lambada]", "--retention.rows", "2"]
    assert main([*asked, "--retention.kl_texts", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("openbookqa", "lambada", "bits/byte", "KL(base || adapted) on 1 passages"))
    kept = json.loads((run / "evaluation" / "retention.json").read_text())
    assert kept["tasks"]["lambada"]["rows"] == 2
    assert [path.name for path in (run / "evaluation").iterdir()] == ["retention.json"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == kept["tasks"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--retention.tasks", "[hellaswg]"], 1, 'Did you mean "hellaswag"'),
        (["--retention.rows", "5"], 2, "set --retention.tasks"),
        (["--retention.tasks", "[piqa]", "--retention.rows", "0"], 1, "retention.rows is 0"),
        (["--retention.tasks", "[piqa]", "--retention.rows", "few"], 2, "rows"),
    ],
)
def test_a_mistake_is_one_message(arguments: list[str], status: int, words: str, run: Path, capsys) -> None:
    assert main(["evaluate", str(run), *arguments]) == status
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_where_every_task_is_tuned_nothing_is_written(run: Path, capsys) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["tasks"] = ["dolly"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["evaluate", str(run), "--retention.tasks", "[squad]"]) == 1
    assert "No task of retention is left: squad (dolly" in capsys.readouterr().err
    assert not (run / "evaluation").exists()
