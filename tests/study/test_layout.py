"""A result file of another layout is told by the name of what is wrong in it, whatever its checksum says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hycam.errors import HycamError
from hycam.study.layout import check_layout
from hycam.study.results import checksum, read
from study.factory import FAILED, plan_of, result_of, retention_of, routing_of, steady, study_of

KEPT = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def content() -> dict[str, Any]:
    """What the file of a cell holds that has everything."""
    (cell,) = plan_of(study_of(("HyCAM",), ("dolly", "webgpt"), (0,)), lambda cell: None).cells
    one = result_of(
        cell, steady({"HyCAM": 1.5})(cell), rows=3, rougeL={"dolly": 0.2, "webgpt": 0.3},
        retention=retention_of({"piqa": 0.1}), routing=routing_of(("dolly", "webgpt"), layers=2, experts=3),
    )  # fmt: skip
    return json.loads(json.dumps(one.content))


def test_what_this_version_writes_has_the_layout(content: dict[str, Any]) -> None:
    check_layout(content)
    (cell,) = plan_of(study_of(("HyCAM",), ("dolly",), (0,)), lambda cell: None).cells
    check_layout(result_of(cell, FAILED).content)


def test_the_results_that_earlier_versions_left_have_it_too() -> None:
    found = [read(path) for path in sorted(KEPT.rglob("cells/*.json"))]
    assert len(found) > 10


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Writes a value to a place, or takes what is there away (``...``)."""

    def change(content: Any) -> None:
        *path, last = place.split("/")
        for key in path:
            content = content[int(key) if isinstance(content, list) else key]
        if value is ...:
            del content[int(last) if isinstance(content, list) else last]
        else:
            content[int(last) if isinstance(content, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("state", "going", r"its state is 'going', where one of done, failed, diverged"),
        ("state", "failed", "it lacks failure, which another version may not have written"),
        ("evaluation", None, "its evaluation is None, where an object was expected"),
        ("evaluation/tasks/dolly/nll", "1.5", r"its evaluation\.tasks\.dolly\.nll is '1\.5', where a number"),
        ("evaluation/tasks/dolly/nll", float("nan"), r"evaluation\.tasks\.dolly\.nll is nan"),
        ("evaluation/tasks/dolly/nll", 1e9, "the nll of its evaluation of dolly is 1000000000.0, which is of no perp"),
        ("evaluation/macro/nll", -1.0, "the nll of its evaluation of macro is -1.0"),
        ("evaluation/tasks/dolly/tokens", 0, "a whole number above 0"),
        ("evaluation/tasks/dolly/tokens", True, "is True, where a whole number"),
        ("evaluation/tasks/dolly", ..., r"evaluation\.rows of other tasks than evaluation\.tasks"),
        ("evaluation/rows/dolly/nll/0", ..., r"the lists of its evaluation\.rows\.dolly are of different lengths"),
        ("evaluation/rows/dolly/row/0", "dolly.jsonl:1", r"evaluation\.rows\.dolly\.row names a row twice"),
        ("evaluation/rows/dolly/row/0", "\ud800", "text without half a character"),
        ("evaluation/macro/perplexity_mean", ..., r"it lacks evaluation\.macro\.perplexity_mean"),
        ("training/seconds", 0, r"its training\.seconds is 0, where a number above 0"),
        ("training/tokens", 0, r"its training\.tokens is 0"),
        ("training/learning_rate", -1.0, r"its training\.learning_rate is -1\.0"),
        ("training/steps", 10**400, r"its training\.steps is 10+…, where a whole number"),
        ("seconds", 0.0, r"its seconds is 0\.0"),
        ("environment/platform", ..., r"it lacks environment\.platform"),
        ("curve", [3], r"its curve\.0 is 3, where an object was expected"),
        ("curve", [{"step": 1, "elapsed": 1.0, "loss": "x"}], r"its curve\.0\.loss is 'x'"),
        ("retention/tasks/piqa/items/bits", [1.0], r"retention\.tasks\.piqa\.items are of different lengths"),
        ("routing/layers", 3, r"routing\.tasks\.dolly\.weights are not 3 layers of 3 modules"),
        ("routing/mutual_information", [], r"routing\.mutual_information has not the 2 layers"),
    ],
)
def test_what_is_not_as_it_should_be_is_told_by_its_name(
    content: dict[str, Any], tmp_path: Path, place: str, value: Any, told: str
) -> None:
    put(place, value)(content)
    if place == "evaluation/rows/dolly/row/0" and value == "dolly.jsonl:1":
        content["evaluation"]["rows"]["dolly"]["row"][1] = value
    with pytest.raises(HycamError, match=told):
        check_layout(content)
    if value != "\ud800":
        content["checksum"] = checksum(content)
        (tmp_path / "cell.json").write_text(json.dumps(content))
        with pytest.raises(HycamError):
            read(tmp_path / "cell.json")


def test_a_loss_beyond_every_perplexity_is_no_fault_of_the_file(content: dict[str, Any]) -> None:
    content["evaluation"]["tasks"]["dolly"] |= {"nll": 2000.0, "perplexity": None}
    check_layout(content)


def test_a_loss_that_is_no_number_is_no_fault_of_the_file(content: dict[str, Any]) -> None:
    content["curve"][0]["loss"] = float("nan")
    content["training"]["validation"]["eval_loss"] = float("inf")
    check_layout(content)


@pytest.mark.parametrize("written", ["[" * 100_000, "9" * 5000, "\xff", "{", '{"format": [1]}', '{"format": 1}'])
def test_a_file_that_is_no_result_is_told(tmp_path: Path, written: str) -> None:
    (tmp_path / "cell.json").write_bytes(written.encode("latin-1"))
    with pytest.raises(HycamError):
        read(tmp_path / "cell.json")
