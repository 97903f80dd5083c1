"""Which rows of a task are in which part, out of files, and the same in every process."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from hycam.data.chosen import chosen_tasks
from hycam.data.partition import Partition, digest, partition, rows_of
from hycam.data.recipe import PARTS, DataRecipe, SplitRecipe, TaskRecipe
from hycam.errors import HycamError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def asked(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"Ask {number}.", "output": f"answer {number}", **more}


def divided(task: str | TaskRecipe, **settings: Any) -> Partition:
    recipe = DataRecipe(tasks=[task], **settings)
    (chosen,) = chosen_tasks(recipe).values()
    return partition(chosen, recipe)


def identities(found: Partition) -> dict[str, list[str]]:
    return {part: found.identities(part) for part in PARTS}


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "mine.jsonl", [asked(n) for n in range(60)])


def test_count_takes_so_many_rows(file: str) -> None:
    split = SplitRecipe("count", validation_rows=7, test_rows=5)
    found = identities(divided(file, split=split))
    assert {part: len(rows) for part, rows in found.items()} == {"train": 48, "validation": 7, "test": 5}
    assert sorted(chain.from_iterable(found.values())) == sorted(f"mine.jsonl:{n}" for n in range(1, 61))
    assert identities(divided(TaskRecipe(path=file, split=split))) == found  # the task's own, or everyone's
    assert identities(divided(file, split=split, seed=1)) != found


def test_disjoint_replicates_divide_the_rows_of_a_task(file: str) -> None:
    split = SplitRecipe("disjoint", replicates=3, validation_rows=4, test_rows=5)
    found = [identities(divided(file, split=split, fold=replicate)) for replicate in range(3)]
    assert [{part: len(rows) for part, rows in one.items()} for one in found] == (
        [{"train": 11, "validation": 4, "test": 5}] * 3
    )
    rows = list(chain.from_iterable(chain.from_iterable(one.values()) for one in found))
    assert sorted(rows) == sorted(f"mine.jsonl:{n}" for n in range(1, 61))
    with pytest.raises(HycamError, match="mine: There is no replicate 3: they are 0 to 2"):
        divided(file, split=split, fold=3)


def test_a_column_says_where_each_row_belongs(tmp_path: Path) -> None:
    words = ["train", "dev", "Test", "validation", "training"]
    path = write(tmp_path / "mine.jsonl", [asked(n, fold=words[n % 5]) for n in range(20)])
    found = identities(divided(path, split=SplitRecipe("column", column="fold")))
    for part, places in {"train": (0, 4), "validation": (1, 3), "test": (2,)}.items():
        assert found[part] == [f"mine.jsonl:{n + 1}" for n in range(20) if n % 5 in places]


def test_files_are_the_parts_and_their_identities_differ_even_if_their_names_do_not(tmp_path: Path) -> None:
    files = {
        part: write(tmp_path / part / "data.jsonl", [asked(100 * number + n) for n in range(number + 2)])
        for number, part in enumerate(PARTS)
    }
    found = identities(divided(TaskRecipe(name="mine", split=SplitRecipe("files", files=files))))
    assert found == {
        part: [f"{part}/data.jsonl:{n + 1}" for n in range(number + 2)] for number, part in enumerate(PARTS)
    }


@pytest.mark.parametrize("by", ["column", "files"])
@pytest.mark.parametrize("repeated", [0, 3])
def test_questions_in_several_given_parts_are_warned_of(
    tmp_path: Path, by: Any, repeated: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {
        "train": [asked(n) for n in range(10)],
        "validation": [asked(n) for n in range(20, 25)],
        "test": [asked(n) for n in range(30, 35)] + [asked(n) for n in range(repeated)],
    }
    if by == "files":
        files = {part: write(tmp_path / f"{part}.jsonl", of_part) for part, of_part in rows.items()}
        entry = TaskRecipe(name="mine", split=SplitRecipe("files", files=files))
    else:
        path = write(tmp_path / "mine.jsonl", [{**row, "part": part} for part in PARTS for row in rows[part]])
        entry = TaskRecipe(path=path, split=SplitRecipe("column", column="part"))
    with caplog.at_level(logging.WARNING, logger="hycam"):
        found = divided(entry)
    assert {part: len(found.part(part)) for part in PARTS} == {part: len(rows[part]) for part in PARTS}
    told = [record.message for record in caplog.records]
    assert [line.split(" inputs")[0] for line in told] == (["mine: 3"] if repeated else [])


@pytest.mark.parametrize("by", ["count", "column", "files"])
def test_a_fold_of_a_split_without_folds_is_refused_before_anything_is_read(by: Any) -> None:
    settings: dict[str, Any] = {
        "count": {"validation_rows": 1, "test_rows": 1},
        "column": {"column": "part"},
        "files": {"files": {part: f"nowhere/{part}.jsonl" for part in PARTS}},
    }[by]
    path = None if by == "files" else "nowhere/mine.jsonl"
    entry = TaskRecipe(name="mine", path=path, split=SplitRecipe(by, **settings))
    with pytest.raises(HycamError, match=f"mine is split by {by}, which has no fold 2"):
        divided(entry, fold=2)


def test_rows_are_those_that_come_first_by_the_hash_of_seed_and_identity(file: str) -> None:
    names = [f"mine.jsonl:{n}" for n in range(1, 61)]
    for seed in (0, 2333):
        ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
        for rows in (12, 30, 100):
            found = divided(TaskRecipe(path=file, rows=rows), seed=seed)
            assert found.rows.dataset["row"][:] == [name for name in names if name in ordered[:rows]]
            assert sorted(chain.from_iterable(identities(found).values())) == sorted(ordered[:rows])


def test_rows_limit_each_part_that_has_a_file_of_its_own(tmp_path: Path) -> None:
    files = {part: write(tmp_path / f"{part}.jsonl", [asked(n) for n in range(9)]) for part in PARTS}
    found = divided(TaskRecipe(name="mine", rows=4, split=SplitRecipe("files", files=files)))
    assert [len(found.part(part)) for part in PARTS] == [4, 4, 4]
    assert found.rows.sizes == (4, 4, 4)


def test_the_source_changes_with_the_rows(file: str, tmp_path: Path) -> None:
    def source(entry: TaskRecipe, seed: int = 0) -> tuple[str, ...]:
        recipe = DataRecipe(tasks=[entry], seed=seed)
        (chosen,) = chosen_tasks(recipe).values()
        return tuple(rows_of(chosen, recipe).source)

    whole = source(TaskRecipe(path=file))
    assert whole == source(TaskRecipe(path=file), seed=1)  # the seed splits whole data, and does not choose them
    others = [
        source(TaskRecipe(path=file, rows=20)),
        source(TaskRecipe(path=file, rows=21)),
        source(TaskRecipe(path=file, rows=20), seed=1),
        source(TaskRecipe(path=file, columns={"instruction": "output", "response": "instruction"})),
        source(TaskRecipe(path=write(tmp_path / "other" / "mine.jsonl", [asked(n) for n in range(61)]))),
    ]
    assert len({whole, *others}) == 6


@pytest.mark.parametrize("empty", [range(0, 40, 4), range(10), range(30, 40)], ids=["between", "first", "last"])
def test_rows_without_an_answer_are_skipped_and_counted(tmp_path: Path, empty: range) -> None:
    path = write(tmp_path / "mine.jsonl", [asked(n, output="" if n in empty else "a") for n in range(40)])
    found = divided(path)
    assert (found.rows.empty, len(found.rows.dataset)) == (10, 30)
    assert divided(TaskRecipe(path=path, rows=20)).rows.empty == 10


def test_the_digest_is_that_of_the_identities_with_line_ends() -> None:
    assert digest(["ü.jsonl:1", "b.jsonl:22"]) == hashlib.sha256("ü.jsonl:1\nb.jsonl:22\n".encode()).hexdigest()
    assert digest([]) == hashlib.sha256(b"").hexdigest()


def test_a_gzipped_file_splits_alike(tmp_path: Path) -> None:
    rows = [{"instruction": f"Ask {n}.", "input": f"about {n % 45}", "output": "a"} for n in range(120)]
    plain, packed = write(tmp_path / "mine.jsonl", rows), write(tmp_path / "gz" / "mine.jsonl.gz", rows)
    found = identities(divided(plain, fold=3, seed=11))
    assert identities(divided(packed, fold=3, seed=11)) == found
    listed = json.dumps(found)  # pinned: the same in every process, whatever its hash seed
    assert (
        hashlib.sha256(listed.encode()).hexdigest()
        == "79de6aa2d6a1e1658ccdc47123d9b7b8c43e39712d6ba38a87ee55ec15eaafcd"
    )
