from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import hycam.cli.data
import hycam.downloads
from hycam.data.partition import split_fold
from hycam.data.recipe import PARTS
from hycam.data.sources import Task
from hycam.data.tasks import EMBEDDED, PAPER, TASKS
from hycam.errors import HycamError, UsageError


def hycam_data(*arguments: str) -> None:
    hycam.cli.data.main(list(arguments))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that has auto_cot alone, and an empty cache."""
    (tmp_path / "auto_cot.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 1234)
    monkeypatch.setenv("HYCAM_DATA", str(tmp_path))
    monkeypatch.setenv("HYCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_list_has_every_task_with_the_rows_of_those_that_are_here_and_fetches_nothing(
    capsys, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hycam.downloads.subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    hycam_data("list")
    lines = capsys.readouterr().out.splitlines()
    for name in TASKS:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert ("1,234" in line) == (name == "auto_cot")
    hycam_data("list", "--json")
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == list(TASKS)
    assert entries["auto_cot"]["rows"] == 1234 and entries["auto_cot"]["path"] == str(folder / "auto_cot.jsonl")
    assert all(entry["rows"] is entry["path"] is None for name, entry in entries.items() if name != "auto_cot")
    assert all(entry["domain"] and entry["source"] and entry["licence"] for entry in entries.values())
    assert set(entries["gsm8k"]) == {"name", "domain", "rows", "source", "path", "licence"}
    assert not (folder / "cache").exists()


def test_fetch_brings_the_embedded_tasks_by_default_or_those_that_are_named(monkeypatch, capsys, folder: Path) -> None:
    hycam_data("fetch", "auto_cot")
    assert capsys.readouterr().out == f"auto_cot: {folder / 'auto_cot.jsonl'}\n"
    monkeypatch.setattr(Task, "fetch", lambda task: None)
    monkeypatch.setattr(Task, "path", lambda task: f"/cache/{task.name}")
    hycam_data("fetch")
    assert capsys.readouterr().out.splitlines() == [f"{name}: /cache/{name}" for name in EMBEDDED]


def test_fetch_brings_nothing_when_one_name_is_misspelt(monkeypatch) -> None:
    monkeypatch.setattr(Task, "fetch", lambda task: pytest.fail(f"{task.name} was fetched"))
    with pytest.raises(HycamError, match='Did you mean "squad"'):
        hycam_data("fetch", "gsm8k", "sqaud")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lists"],
        ["list", "--jsn"],
        ["preview"],
        ["preview", "squad", "--rows", "0"],
        ["preview", "squad", "--max_length", "-1"],
        ["preview", "squad", "--overlong", "cut"],
        ["split", "squad", "--fold", "first"],
        ["stats", "--tokeniser", "x"],
    ],
)
def test_wrong_usage_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        hycam_data(*arguments)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Forty rows, two of each question."""
    rows = [{"instruction": f"Ask {n % 20}.", "output": f"answer {n}"} for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "mine.jsonl")


@pytest.fixture
def recipe(tmp_path: Path, file: str, backbone: str) -> str:
    """A recipe whose tasks have columns, a name and a split of their own."""
    rows = [{"q": f"Ask {n}.", "a": f"answer {n}"} for n in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "backbone": backbone,
                "data": {
                    "tasks": [
                        "auto_cot",
                        {"path": file, "name": "named", "split": {"by": "count", "validation_rows": 4, "test_rows": 2}},
                        {"path": str(tmp_path / "own.jsonl"), "columns": {"instruction": "q", "response": "a"}},
                    ],
                    "fold": 0,
                    "seed": 3,
                    "max_length": 200,
                    "prompt": "Q: {instruction} A:",
                    "mixture": {"strategy": "weights", "weights": {"auto_cot": 1, "named": 2, "own": 3}},
                },
            }
        )
    )
    return str(tmp_path / "recipe.yaml")


class TestSplit:
    @pytest.mark.parametrize(("fold", "seed"), [(0, 2333), (3, 2333), (1, 5)])
    def test_json_has_the_rows_of_every_part_and_the_hash_of_their_identities(
        self, file: str, fold: int, seed: int, capsys
    ) -> None:
        split = split_fold([f"Ask {n % 20}." for n in range(40)], fold, seed)
        names = {part: [f"mine.jsonl:{row + 1}" for row in getattr(split, part)] for part in PARTS}
        expected: dict[str, dict[str, Any]] = {
            part: {
                "rows": len(rows),
                "sha256": hashlib.sha256("".join(row + "\n" for row in rows).encode()).hexdigest(),
            }
            for part, rows in names.items()
        }
        chosen = ("--fold", str(fold), "--seed", str(seed))
        hycam_data("split", file, *chosen, "--json")
        assert json.loads(capsys.readouterr().out) == expected
        hycam_data("split", file, *chosen, "--json", "--rows")
        whole = {part: {**expected[part], "identities": rows} for part, rows in names.items()}
        assert json.loads(capsys.readouterr().out) == whole
        hycam_data("split", file, *chosen, "--rows")
        lines = []
        for part, rows in names.items():
            lines += [f"{part}: {len(rows)} rows, SHA-256 {expected[part]['sha256']}", *(f"  {row}" for row in rows)]
        assert capsys.readouterr().out.splitlines() == lines
        hycam_data("split", file, *chosen)
        assert capsys.readouterr().out.splitlines() == [line for line in lines if not line.startswith(" ")]

    def test_a_recipe_says_how_its_tasks_are_split(self, recipe: str, file: str, capsys) -> None:
        for word in ("named", file):  # by name, or by path
            hycam_data("split", word, "--recipe", recipe, "--json")
            assert [part["rows"] for part in json.loads(capsys.readouterr().out).values()] == [34, 4, 2]
        hycam_data("split", "own", "--recipe", recipe, "--json", "--rows")
        found = json.loads(capsys.readouterr().out)
        split = split_fold([f"Ask {n}." for n in range(20)], 0, 3)  # with the recipe's seed
        assert found["test"]["identities"] == [f"own.jsonl:{row + 1}" for row in split.test]
        hycam_data("split", "own", "--recipe", recipe, "--json", "--fold", "2")
        assert json.loads(capsys.readouterr().out) != found

    def test_other_tasks_may_be_asked_for_beside_a_recipe(self, recipe: str, tmp_path: Path, capsys) -> None:
        (tmp_path / "other.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 3)
        with pytest.raises(HycamError, match="other: 3 rows in 1 groups"):
            hycam_data("split", str(tmp_path / "other.jsonl"), "--recipe", recipe)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["mien"], 'no task called "mien"'),
            (["auto_cto"], 'Did you mean "auto_cot"'),
            (["nowhere.jsonl"], "nowhere.jsonl cannot be read"),
            (["auto_cot", "--fold", "5"], "auto_cot: There is no fold 5: the folds are 0 to 4"),
            (["auto_cot", "--fold", "-1"], "There is no fold -1"),
            (["auto_cot"], "1234 rows in 1 groups cannot be split"),
            (["auto_cot", "--recipe", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        ],
    )
    def test_what_cannot_be_split_is_said(self, arguments: list[str], said: str) -> None:
        with pytest.raises(HycamError) as caught:
            hycam_data("split", *arguments)
        assert said in str(caught.value)

    def test_a_fold_of_a_split_by_count_is_refused(self, recipe: str) -> None:
        with pytest.raises(HycamError, match="named is split by count, which has no fold 1"):
            hycam_data("split", "named", "--recipe", recipe, "--fold", "1")


class TestPreview:
    def test_uses_the_backbone_and_the_form_that_are_asked_for(self, file: str, backbone: str, capsys) -> None:
        hycam_data("preview", file, "--rows", "2", "--prompt", "paper", "--max_length", "110", "--backbone", backbone)
        out = capsys.readouterr().out
        assert out.count("mine.jsonl:") == 2 and "\x1b" not in out
        assert "  #|#|#| |R|e|s|p|o|n|s|e|:|\n+ a|n|s|w|e|r| |0|</s>|\n" in out
        assert "mine: 40 rows, 40 kept, of them 40 shortened" in out
        hycam_data("preview", file, "--max_length", "110", "--overlong", "drop", "--tokenizer", backbone)
        assert "40 dropped" in capsys.readouterr().out

    def test_has_them_from_a_recipe_unless_they_are_given(self, recipe: str, capsys) -> None:
        hycam_data("preview", "own", "--recipe", recipe, "--rows", "1")
        assert "<s>|Q|:| |A|s|k| |0|.| |A|:|\n+ a|n|s|w|e|r| |0|</s>|" in capsys.readouterr().out
        hycam_data("preview", "own", "--recipe", recipe, "--rows", "1", "--prompt", "{instruction}=")
        assert "<s>|A|s|k| |0|.|=|\n+ a|n|s|w|e|r| |0|</s>|" in capsys.readouterr().out

    def test_a_study_gives_its_first_backbone(self, recipe: str, tmp_path: Path, capsys) -> None:
        content = yaml.safe_load(Path(recipe).read_text())
        content = {
            "data": content["data"],
            "backbones": {"Tiny": content["backbone"]},
            "methods": {"lora": {"name": "lora"}},
        }
        (tmp_path / "several.yaml").write_text(yaml.safe_dump(content))
        hycam_data("preview", "own", "--recipe", str(tmp_path / "several.yaml"), "--rows", "1")
        assert "own: 20 rows" in capsys.readouterr().out

    def test_skips_malformed_rows_on_request(self, file: str, backbone: str, capsys) -> None:
        with Path(file).open("a") as rows:
            rows.write("{\n")
        with pytest.raises(HycamError, match=r"mine\.jsonl:41"):
            hycam_data("preview", file, "--backbone", backbone)
        hycam_data("preview", file, "--backbone", backbone, "--skip_bad_rows")
        assert "mine: 40 rows" in capsys.readouterr().out

    def test_knows_the_entries_of_a_dataset_info(self, file: str, tmp_path: Path, backbone: str, capsys) -> None:
        entry = {"file_name": "mine.jsonl", "columns": {"prompt": "output", "response": "instruction"}}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"swapped": entry}))
        hycam_data("preview", "swapped", "--dataset_info", str(tmp_path), "--backbone", backbone, "--rows", "1")
        assert "+ A|s|k| |0|.|</s>|" in capsys.readouterr().out
        with pytest.raises(HycamError, match='Did you mean "swapped"'):
            hycam_data("preview", "swaped", "--dataset_info", str(tmp_path), "--backbone", backbone)

    def test_a_misspelt_backbone_is_refused(self, file: str) -> None:
        with pytest.raises(HycamError, match='Did you mean "smollm2-135m"'):
            hycam_data("preview", file, "--backbone", "smollm2-135")


class TestStats:
    PROMPT = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{}\n\n### Response:"
    )

    def test_json_has_rows_and_tokens_and_what_the_task_is(self, file: str, backbone: str, capsys) -> None:
        hycam_data("stats", file, "auto_cot", "--json", "--backbone", backbone)
        mine, auto_cot = json.loads(capsys.readouterr().out)
        texts = [self.PROMPT.format(f"Ask {n % 20}.") + f"answer {n}" for n in range(40)]
        tokens = sum(len(text) + 1 for text in texts)  # one for each byte, and the start token
        assert (mine["task"], mine["samples"], mine["total_tokens"]) == ("mine", 40, tokens)
        assert mine["mean_tokens"] == pytest.approx(tokens / 40)
        assert (mine["domain"], mine["source"]) == ("own data", file)
        assert (auto_cot["task"], auto_cot["samples"], auto_cot["domain"]) == (
            "auto_cot",
            1234,
            "step-by-step reasoning",
        )

    def test_the_table_has_the_same_and_loses_nothing_in_a_narrow_window(
        self, file: str, backbone: str, capsys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for width in (80, 200):
            monkeypatch.setenv("COLUMNS", str(width))
            hycam_data("stats", file, "--backbone", backbone)
            out = capsys.readouterr().out
            assert "mine" in out and " 40 " in out and "…" not in out
            last_column = out.splitlines()[0].index("source")
            assert file in "".join(line[last_column:].strip() for line in out.splitlines())
            assert all(len(line) <= width for line in out.splitlines())

    def test_counts_a_recipes_tasks_by_default(self, recipe: str, capsys) -> None:
        hycam_data("stats", "--recipe", recipe, "--json")
        found = {entry["task"]: entry["samples"] for entry in json.loads(capsys.readouterr().out)}
        assert found == {"auto_cot": 1234, "named": 40, "own": 20}

    def test_counts_the_papers_tasks_where_there_is_no_recipe(
        self, monkeypatch: pytest.MonkeyPatch, backbone: str
    ) -> None:
        monkeypatch.setattr("hycam.cli.data_run.rows_of", lambda chosen, *_, **__: pytest.fail(chosen.name))
        with pytest.raises(pytest.fail.Exception, match=PAPER[0]):
            hycam_data("stats", "--backbone", backbone)

    def test_parts_with_files_of_their_own_are_counted_each(self, tmp_path: Path, backbone: str, capsys) -> None:
        files = {}
        for number, part in enumerate(PARTS, 1):
            files[part] = str(tmp_path / f"{part}.jsonl")
            Path(files[part]).write_text('{"instruction": "a", "output": "b"}\n' * number)
        content = {"data": {"tasks": [{"name": "mine", "split": {"by": "files", "files": files}}]}}
        (tmp_path / "parts.yaml").write_text(yaml.safe_dump(content))
        hycam_data("stats", "mine", "--recipe", str(tmp_path / "parts.yaml"), "--json", "--tokenizer", backbone)
        found = [(entry["task"], entry["samples"]) for entry in json.loads(capsys.readouterr().out)]
        assert found == [("mine (train)", 1), ("mine (validation)", 2), ("mine (test)", 3)]


@pytest.mark.parametrize("verb", ["list", "preview", "stats", "split", "fetch"])
def test_every_verb_has_help_that_names_its_options(verb: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        hycam_data(verb, "--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    options = {
        "list": ["--json"],
        "preview": ["--rows", "--prompt", "--max_length", "--overlong", "--tokenizer", "--backbone", "--recipe"],
        "stats": ["--json", "--tokenizer", "--backbone", "--recipe", "--dataset_info", "--skip_bad_rows"],
        "split": ["--fold", "--seed", "--rows", "--json", "--recipe", "--dataset_info", "--skip_bad_rows"],
        "fetch": ["tasks"],
    }[verb]
    assert all(option in shown for option in options)
