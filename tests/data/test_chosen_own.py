"""Tasks that a recipe names: files, folders, hub datasets, and the files of a split."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from hycam.data.chosen import name_of, own_parts, own_task
from hycam.data.load import load_task
from hycam.data.recipe import TaskRecipe
from hycam.errors import HycamError


def write(path: Path, *answers: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"instruction": "Go.", "output": answer}) + "\n" for answer in answers).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(HycamError) as caught:
        make()
    return str(caught.value)


def test_the_rows_of_a_folder_go_by_their_path_inside_it(tmp_path: Path) -> None:
    write(tmp_path / "desk" / "b.jsonl.gz", "1", "2")
    write(tmp_path / "desk" / "2024" / "a.jsonl", "3")
    dataset = load_task(str(tmp_path / "desk"))
    assert dataset["row"][:] == ["2024/a.jsonl:1", "b.jsonl:1", "b.jsonl:2"]
    assert dataset["response"][:] == ["3", "1", "2"]


def test_files_whose_rows_would_have_the_same_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "desk" / "a.jsonl.gz", "1")
    write(tmp_path / "desk" / "a.jsonl", "1")
    assert "would have the same identities: remove one" in refusal(lambda: load_task(str(tmp_path / "desk")))


def test_an_optional_column_that_no_row_has_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "1")
    task = own_task(TaskRecipe(path=str(tmp_path / "a.jsonl"), columns={"group": "doc", "system": "output"}))
    said = f"{tmp_path / 'a.jsonl'} has no column doc in any row. Columns: instruction, output."
    assert refusal(lambda: load_task(task)) == said


def test_an_entry_ignores_columns_and_keys_of_messages(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "mood": "glad"}]
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"messages": talk, "rejected": "c"}))
    for ignored, named in (([], "rejected"), (["rejected"], "mood"), (["mood"], "rejected")):
        entry = TaskRecipe(path=str(path), ignore=ignored)
        assert f"(ignore: [{named}])" in refusal(lambda entry=entry: load_task(own_task(entry)))
    assert load_task(own_task(TaskRecipe(path=str(path), ignore=["rejected", "mood"])))["response"][:] == ["b"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "gr\udcfc.jsonl", "1")
    assert "gr\\udcfc.jsonl' cannot be read: its name is not text" in refusal(lambda: load_task(file))


def test_a_file_that_changes_while_it_is_read_is_refused_and_read_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write(file, "1", "2")
    fetched = own_task(TaskRecipe(path=str(file))).fetch()
    rows = fetched.read(lambda error: None)
    next(rows)
    write(file, "3", "4", "5")
    with pytest.raises(HycamError, match=r"a\.jsonl changed while it was being read"):
        list(rows)
    assert load_task(str(file))["response"][:] == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("path", "hub", "name"),
    [
        ("my/rows.jsonl", None, "rows"),
        ("my/rows.JSON.gz", None, "rows"),
        ("my/rows.v2.csv", None, "rows.v2"),
        ("my/folder", None, "folder"),
        ("my/rows.txt", None, "rows.txt"),
        (None, "owner/riddles", "riddles"),
    ],
)
def test_a_task_is_called_after_its_place_or_as_the_recipe_says(path: str | None, hub: str | None, name: str) -> None:
    assert name_of(TaskRecipe(path=path, hub=hub)) == name
    assert name_of(TaskRecipe(path=path, hub=hub, name="mine")) == "mine"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "needs a name if it has neither a path nor a hub dataset"),
        ({"path": ""}, "needs a name if it has neither"),
        ({"name": "x", "path": ""}, 'task "x" needs either a path or a hub dataset'),
        ({"name": "x", "hub": ""}, 'task "x" needs either a path or a hub dataset'),
        ({"path": "a.jsonl", "hub": "o/a"}, "needs either a path or a hub dataset"),
        ({"path": "a.jsonl", "subset": "en"}, "which only a hub dataset has"),
        ({"path": "a.jsonl", "revision": "main"}, "which only a hub dataset has"),
        ({"path": "a.jsonl", "hub_split": "test"}, "which only a hub dataset has"),
        ({"path": "a.jsonl", "columns": {"respons": "a"}}, 'unknown word "respons". Did you mean "response"?'),
        ({"path": "a.jsonl", "columns": {"part": "a"}}, 'unknown word "part"'),
        ({"path": "a.jsonl", "columns": {"instruction": "q"}}, "lack response: say which column holds it"),
        (
            {"path": "a.jsonl", "tags": {"usr": "a"}},
            'tags of the task "a" have an unknown word "usr". Did you mean "user"?',
        ),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(entry: dict, said: str) -> None:
    assert said in refusal(lambda: own_task(TaskRecipe(**entry)))


class TestFilesOfASplit:
    def parts(self, files: dict[str, str], **entry: Any) -> list[list[str]]:
        made = own_parts(TaskRecipe(name="mine", **entry), files)
        return [load_task(made[part])["row"][:] for part in files]

    def test_have_distinct_labels_with_as_much_of_their_paths_as_necessary(self, tmp_path: Path) -> None:
        a, b = write(tmp_path / "x" / "train.jsonl", "1"), write(tmp_path / "x" / "dev.jsonl", "2")
        assert self.parts({"train": a, "test": b}) == [["train.jsonl:1"], ["dev.jsonl:1"]]
        c = write(tmp_path / "y" / "train.jsonl.gz", "3")
        assert self.parts({"train": a, "test": c}) == [["x/train.jsonl:1"], ["y/train.jsonl:1"]]

    def test_may_be_folders(self, tmp_path: Path) -> None:
        write(tmp_path / "x" / "rows" / "a.jsonl", "1")
        write(tmp_path / "y" / "rows" / "a.jsonl", "2")
        files = {"train": str(tmp_path / "x" / "rows"), "test": str(tmp_path / "y" / "rows")}
        assert self.parts(files) == [["x/rows/a.jsonl:1"], ["y/rows/a.jsonl:1"]]

    @pytest.mark.parametrize("again", ["x/a.jsonl", "x/../x/a.jsonl", "x", "link.jsonl", "x/a.jsonl.gz"])
    def test_are_refused_where_two_parts_have_the_same_rows(self, tmp_path: Path, again: str) -> None:
        a = write(tmp_path / "x" / "a.jsonl", "1")
        write(tmp_path / "x" / "a.jsonl.gz", "1")
        (tmp_path / "link.jsonl").symlink_to(a)
        said = refusal(lambda: self.parts({"train": a, "validation": str(tmp_path / again)}))
        assert 'task "mine" has the same rows for' in said and str(tmp_path / again) in said

    def test_exclude_a_path_beside_them(self, tmp_path: Path) -> None:
        a, b = write(tmp_path / "a.jsonl", "1"), write(tmp_path / "b.jsonl", "2")
        assert "its path would not be read" in refusal(lambda: self.parts({"train": a, "test": b}, path=a))

    def test_of_the_hub_are_splits_and_not_the_same_one_twice(self, hub: list[dict]) -> None:
        files = {"train": "train", "test": "validation"}
        entry = {"hub": "owner/riddles", "columns": {"instruction": "q", "response": "a"}}
        assert self.parts(files, **entry) == [["riddles:1", "riddles:2"], ["riddles/validation:1"]]
        said = refusal(lambda: self.parts({"train": "train", "test": "train"}, **entry))
        assert 'task "mine" has the same rows for train and test' in said


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A hub with two splits of a dataset; the list fills with what was asked of it."""
    asked: list[dict] = []
    splits = {"train": ["1", "2"], "validation": ["3"], "empty": []}

    def load_dataset(repository: str, subset: str | None, revision: str | None, split: str) -> datasets.Dataset:
        asked.append({"repository": repository, "subset": subset, "revision": revision, "split": split})
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
        rows = {"q": [f"ask {answer}" for answer in splits[split]], "a": splits[split]}
        return datasets.Dataset.from_dict(
            rows, features=datasets.Features(dict.fromkeys("qa", datasets.Value("string")))
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def on_hub(**entry: Any) -> TaskRecipe:
    return TaskRecipe(hub="owner/riddles", columns={"instruction": "q", "response": "a"}, **entry)


def test_a_hub_dataset_is_asked_for_by_subset_revision_and_split(hub: list[dict]) -> None:
    dataset = load_task(own_task(on_hub(subset="en", revision="abc", hub_split="validation")))
    assert hub == [{"repository": "owner/riddles", "subset": "en", "revision": "abc", "split": "validation"}]
    assert (dataset["row"][:], dataset["response"][:]) == (["riddles/validation:1"], ["3"])


def test_a_split_or_a_column_that_the_hub_has_not_is_named(hub: list[dict]) -> None:
    said = refusal(lambda: load_task(own_task(on_hub(hub_split="dev"))))
    assert 'owner/riddles could not be loaded from the hub (Unknown split "dev"' in said
    wrong = TaskRecipe(hub="owner/riddles", columns={"instruction": "q", "response": "answer"})
    assert 'owner/riddles:1: there is no column "answer"' in refusal(lambda: load_task(own_task(wrong)))
    assert "riddles has no row" in refusal(lambda: load_task(own_task(on_hub(hub_split="empty"))))


def test_what_the_hub_library_cannot_decode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"q": ["ask"], "a": ["say"]}).with_transform(lambda _: 1 / 0)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    said = refusal(lambda: load_task(own_task(on_hub())))
    assert said.startswith("A row of owner/riddles cannot be read: division by zero")
