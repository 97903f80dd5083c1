from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hycam.data.llama_factory import dataset_info
from hycam.data.recipe import TaskRecipe
from hycam.errors import HycamError

OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
OPENAI = {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "system": "system"}


def write(folder: Path, content: Any) -> Path:
    file = folder / "dataset_info.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def mapped(tmp_path: Path, /, **entry: Any) -> TaskRecipe:
    """What becomes of one entry, which is a file unless it says otherwise."""
    place = {} if any(key.endswith(("_url", "_name")) for key in entry) else {"file_name": "rows.json"}
    return dataset_info(write(tmp_path, {"it": place | entry})).task("it")


def refusal(tmp_path: Path, /, **entry: Any) -> str:
    with pytest.raises(HycamError) as caught:
        mapped(tmp_path, **entry)
    assert str(caught.value).startswith(f'{tmp_path / "dataset_info.json"}: "it" cannot be used: ')
    return str(caught.value)


def test_a_list_as_people_have_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = {"prompt": "question", "query": "", "response": "reply", "system": "role", "history": "before"}
    write(
        tmp_path,
        {
            "greetings": {"file_name": "greetings.json"},
            "support": {"file_name": "desk/2024", "num_samples": 500, "columns": desk},
            "riddles": {
                "hf_hub_url": "someone/riddles",
                "ms_hub_url": "other/riddles",
                "subset": "en",
                "split": "test",
            },
            "chats": {"file_name": "chats.jsonl", "formatting": "sharegpt"},
            "tickets": {
                "file_name": "tickets.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "thread", "system": "house_rules", "tools": "tools"},
                "tags": {"role_tag": "who", "content_tag": "text", "user_tag": "guest", "assistant_tag": "clerk"},
            },
            "tutor": {
                "file_name": "/elsewhere/tutor.jsonl",
                "formatting": "openai",
                "columns": {"messages": "messages"},
                "tags": OPENAI_TAGS | {"system_tag": "system", "observation_tag": "tool", "function_tag": "call"},
            },
            "duels": {"file_name": "duels.json", "ranking": True, "columns": {"prompt": "q", "chosen": "a"}},
            "votes": {"file_name": "votes.json", "columns": {"prompt": "q", "response": "a", "kto_tag": "liked"}},
            "photos": {"file_name": "photos.json", "formatting": "sharegpt", "columns": {"images": "images"}},
            "novels": {"file_name": "novels.txt", "columns": {"prompt": "text"}},
            "far_away": {"ms_hub_url": "someone/far-away"},
        },
    )
    with caplog.at_level(logging.WARNING):
        tasks = dataset_info(tmp_path).tasks()
    assert tasks == [
        TaskRecipe(
            name="greetings",
            path=str(tmp_path / "greetings.json"),
            columns={"instruction": "instruction", "input": "input", "response": "output"},
        ),
        TaskRecipe(
            name="support",
            path=str(tmp_path / "desk" / "2024"),
            columns={"instruction": "question", "response": "reply", "system": "role", "history": "before"},
            rows=500,
        ),
        TaskRecipe(
            name="riddles",
            hub="someone/riddles",
            subset="en",
            hub_split="test",
            columns={"instruction": "instruction", "input": "input", "response": "output"},
        ),
        TaskRecipe(name="chats", path=str(tmp_path / "chats.jsonl"), columns={"messages": "conversations"}),
        TaskRecipe(
            name="tickets",
            path=str(tmp_path / "tickets.jsonl"),
            columns={"messages": "thread", "system": "house_rules", "tools": "tools"},
            tags={"role": "who", "content": "text", "user": "guest", "assistant": "clerk", "system": "system"},
        ),
        TaskRecipe(
            name="tutor",
            path="/elsewhere/tutor.jsonl",
            columns={"messages": "messages"},
            tags=OPENAI | {"tool": "tool", "call": "call"},
        ),
    ]
    assert all(task.turns == "all" for task in tasks)
    (record,) = caplog.records
    assert "5 of 11 entries" in record.message
    assert "skipped: duels, votes, photos, novels, far_away." in record.message


def test_the_file_and_its_folder_are_the_same(tmp_path: Path) -> None:
    file = write(tmp_path, {"b": {"file_name": "b.json"}, "a": {"ranking": True}})
    assert dataset_info(file) == dataset_info(str(tmp_path))
    assert dataset_info(file).names == ["b", "a"]


def test_a_list_without_one_entry_to_use_is_an_error_with_the_reason(tmp_path: Path) -> None:
    for entries, said in (({"a": {"ranking": True}}, '"a" cannot be used: it ranks'), ({}, "no entry to train on.")):
        with pytest.raises(HycamError, match=said):
            dataset_info(write(tmp_path, entries)).tasks()


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    info = dataset_info(write(tmp_path, {"greetings": {"file_name": "a.json"}, "novels": {"ranking": True}}))
    with pytest.raises(HycamError, match=r'dataset_info\.json called "greeting"\. Did you mean "greetings"'):
        info.task("greeting")


def test_what_an_entry_names_replaces_the_defaults_all_together(tmp_path: Path) -> None:
    task = mapped(tmp_path, columns={"prompt": "input", "response": "target"})
    assert task.columns == {"instruction": "input", "response": "target"}
    assert mapped(tmp_path, formatting="sharegpt", tags=OPENAI_TAGS).tags == OPENAI  # the system's need not be named
    assert mapped(tmp_path, tags={"role_tag": "role"}).tags == {}  # without a conversation they say nothing
    assert mapped(tmp_path, hf_hub_url="a/b", revision="v2").revision == "v2"
    assert mapped(tmp_path, split="train").path


def test_null_and_empty_are_as_good_as_missing(tmp_path: Path) -> None:
    entry = {"formatting": None, "subset": None, "num_samples": None, "columns": None, "tags": None, "ranking": False}
    assert mapped(tmp_path, **entry) == mapped(tmp_path)
    assert mapped(tmp_path, columns={"prompt": "q", "query": "", "response": "a", "history": None}).columns == {
        "instruction": "q",
        "response": "a",
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"ranking": True}, '"ranking"'),
        ({"columns": {"prompt": "q", "response": "a", "kto_tag": "ok"}}, '"kto_tag"'),
        ({"columns": {"prompt": "q", "response": "a", "images": "pictures"}}, 'has images (the column "pictures")'),
        ({"formatting": "sharegpt", "columns": {"messages": "m", "videos": "films"}}, "has videos"),
        ({"formatting": "openai", "columns": {"messages": "m", "audios": "sounds"}}, "has audios"),
        ({"columns": {"prompt": "text"}}, "text without an answer"),
        ({"file_name": ""}, "does not say where"),
        ({"hf_hub_url": "a/b", "folder": "python"}, '"folder"'),
        ({"split": "train[:100]"}, 'no split "train[:100]"'),
        ({"formatting": "share_gpt"}, 'Did you mean "sharegpt"? Known: alpaca, sharegpt, openai'),
        *(({"num_samples": number}, f'"num_samples" is {json.dumps(number)}') for number in (0, -1, 2.5, "10", True)),
        ({"colums": {"prompt": "q"}}, '"colums" in the entry is unknown. Did you mean "columns"?'),
        ({"samples": 100}, '"samples" in the entry is unknown. Did you mean "num_samples"?'),
        ({"columns": {"promt": "q", "response": "a"}}, '"promt" in columns is unknown. Did you mean "prompt"?'),
        ({"formatting": "openai", "tags": {"user_tg": "x"}}, '"user_tg" in tags is unknown. Did you mean "user_tag"?'),
        ({"file_name": ["a.json", "b.json"]}, '"file_name" is ["a.json", "b.json"], and text'),
        ({"columns": ["q", "a"]}, '"columns" is ["q", "a"], and an object'),
        ({"columns": {"prompt": 1, "response": "a"}}, '"prompt" is 1, and text'),
        ({"formatting": ["alpaca"]}, '"formatting" is ["alpaca"], and text'),
        ({"formatting": "sharegpt", "columns": {"system": "system"}}, '"columns" name no "messages"'),
        ({"columns": {"instruction": "q", "output": "a"}}, '"columns" name no "prompt"'),
        ({"formatting": "openai", "tags": {"role_tag": "r", "content_tag": "c"}}, '"tags" name no "user_tag"'),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, entry: dict, said: str) -> None:
    assert said in refusal(tmp_path, **entry)


def test_the_first_place_counts_in_the_order_of_llama_factory(tmp_path: Path) -> None:
    everywhere = {
        "hf_hub_url": "a/b",
        "ms_hub_url": "c/d",
        "om_hub_url": "e/f",
        "script_url": "loader",
        "cloud_file_name": "s3://rows.json",
        "file_name": "rows.json",
    }
    task = mapped(tmp_path, **everywhere)
    assert (task.hub, task.path) == ("a/b", None)
    for place, said in (("hf", "ModelScope"), ("ms", "openMind"), ("om", "code"), ("script", "cloud storage")):
        del everywhere[f"{place}_hub_url" if len(place) == 2 else f"{place}_url"]
        message = refusal(tmp_path, **everywhere)
        assert said in message
        assert '"file_name" instead' in message
    del everywhere["cloud_file_name"]
    assert mapped(tmp_path, **everywhere).path == str(tmp_path / "rows.json")


def test_a_key_that_resembles_none_is_ignored_as_llama_factory_does(tmp_path: Path) -> None:
    notes = {"description": "our own", "task": "support", "version": "2", "file_sha1": "0", "file_name": "rows.json"}
    assert mapped(tmp_path, **notes) == mapped(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, " cannot be read: No such file"),
        (b'{"gr\xfc\xdfe": {}}', ":1:5: the byte 0xfc is not UTF-8"),
        (
            b'{\n  "a": {"file_name": "a.json"},\n  "b" {}\n}',
            ":3:7: one JSON object with an entry for each dataset was",
        ),
        (b'{"a": {"file_name": "1"}, "b": {"file_name": "2"}, "a": {"file_name": "3"}}', 'the key "a" twice'),
        (b'{"b": {"file_name": "1.json", "columns": {"a": "x", "a": "y"}}}', 'the key "a" twice'),
        (b'[{"instruction": "Sum up the letter below in a few words."}]', "expected, not [{"),
        (b'[{"instruction": "Sum up the letter below in a few words."}]', "a task of its own: name it under tasks"),
        (b'{"features": {"text": {"dtype": "string"}}, "citation": ""}', '"citation" is ""'),
        (b'{"features": {"text": {"dtype": "string"}}, "citation": ""}', "The library datasets saves another kind"),
    ],
)
def test_a_file_that_is_no_list_of_datasets_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "dataset_info.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(HycamError) as caught:
        dataset_info(tmp_path)
    assert str(caught.value).startswith(str(file)) and said in str(caught.value)


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, "\ufeff" + json.dumps({"grüße": {"file_name": "a.json"}}))
    assert dataset_info(file).names == ["grüße"]
