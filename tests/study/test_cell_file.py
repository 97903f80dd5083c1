"""A result file of another layout is refused by the name of the field that is wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hycam.errors import HycamError
from hycam.study.cell_file import check
from hycam.study.results import read
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
    check(content)
    check({**content, "of_a_later_version": 1, "training": {**content["training"], "watts": 3}})
    (cell,) = plan_of(study_of(("HyCAM",), ("dolly",), (0,)), lambda cell: None).cells
    check(result_of(cell, FAILED).content)


def test_the_results_that_earlier_versions_left_have_it_too() -> None:
    found = [read(path) for path in sorted(KEPT.rglob("cells/*.json"))]
    assert len(found) > 10


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Writes a value to a place, or takes what is there away (``...``)."""

    def change(content: Any) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            content = content[key]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("state", "going", r"Invalid value 'going' - at `\$\.state`"),
        ("state", "failed", r"missing required field `failure`"),
        ("format", 0, "layout 0 of another version; this one reads 1"),
        ("evaluation", None, r"Expected `object`, got `null` - at `\$\.evaluation`"),
        ("evaluation/tasks/dolly/nll", "1.5", r"got `str` - at `\$\.evaluation\.tasks\[\.\.\.\]\.nll`"),
        ("evaluation/tasks/dolly/nll", float("nan"), r"\.nll"),
        ("evaluation/tasks/dolly/nll", 1e9, r"A perplexity was given for an nll of 1000000000\.0"),
        ("evaluation/macro/nll", -1.0, r"an nll of -1\.0 - at `\$\.evaluation\.macro`"),
        ("evaluation/tasks/dolly/tokens", 0, r"Expected `int` >= 1 - at .*tokens"),
        ("evaluation/tasks/dolly/tokens", True, r"Expected `int`, got `bool` - at .*tokens"),
        ("evaluation/tasks/dolly", ..., "`rows` and `tasks` have different tasks"),
        ("evaluation/rows/dolly/nll/0", ..., "The columns have different lengths"),
        ("evaluation/rows/dolly/row/0", "dolly.jsonl:1", "`row` contains a row twice"),
        ("evaluation/macro/perplexity_mean", ..., r"field `perplexity_mean` - at `\$\.evaluation\.macro`"),
        ("training/seconds", 0, r"at `\$\.training\.seconds`"),
        ("training/learning_rate", -1.0, r"at `\$\.training\.learning_rate`"),
        ("training/steps", 10**400, "(?s).*"),
        ("seconds", 0.0, r"at `\$\.seconds`"),
        ("environment/platform", ..., r"field `platform` - at `\$\.environment`"),
        ("curve", [3], r"at `\$\.curve\[0\]`"),
        ("curve", [{"step": 1, "elapsed": 1.0, "loss": "x"}], r"at `\$\.curve\[0\]\[\.\.\.\]`"),
        ("curve", [{"step": 1.5, "elapsed": 1.0}], r"at `\$\.curve\[0\]\.step`"),
        ("retention/tasks/piqa/items/bits", [1.0], r"different lengths.* at `\$\.retention\.tasks\[\.\.\.\]\.items`"),
        ("routing/layers", 3, "The weights of dolly are not 3 layers of 3 modules"),
        ("routing/mutual_information", [], "`mutual_information` does not have 2 layers"),
    ],
)
def test_what_is_not_as_it_should_be_is_told_by_its_name(
    content: dict[str, Any], tmp_path: Path, place: str, value: Any, told: str
) -> None:
    put(place, value)(content)
    if value == "dolly.jsonl:1":
        content["evaluation"]["rows"]["dolly"]["row"][1] = value
    (tmp_path / "cell.json").write_text(json.dumps(content))
    with pytest.raises(HycamError, match=told) as raised:
        read(tmp_path / "cell.json")
    assert "\n" not in str(raised.value)


def test_half_a_character_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["evaluation"]["rows"]["dolly"]["row"][0] = "\ud800"
    (tmp_path / "cell.json").write_text(json.dumps(content))
    with pytest.raises(HycamError, match="surrogates not allowed"):
        read(tmp_path / "cell.json")


def test_a_loss_that_is_no_number_or_beyond_every_perplexity_is_no_fault_of_the_file(content: dict[str, Any]) -> None:
    content["evaluation"]["tasks"]["dolly"] |= {"nll": 2000.0, "perplexity": None}
    content["curve"][0]["loss"] = float("nan")
    content["training"]["validation"]["eval_loss"] = float("inf")
    check(content)


@pytest.mark.parametrize(
    "written", ["[" * 100_000, "9" * 5000, "\xff", "{", "", "[1]", '{"format": [1]}', '{"format": 1}']
)
def test_a_file_that_is_no_result_is_told(tmp_path: Path, written: str) -> None:
    (tmp_path / "cell.json").write_bytes(written.encode("latin-1"))
    with pytest.raises(HycamError, match=r"cannot be read|not a cell's result|another|layout"):
        read(tmp_path / "cell.json")
