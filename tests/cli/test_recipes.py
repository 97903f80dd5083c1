"""The recipes that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hycam.cli.main import main
from hycam.study.plan import read_study
from hycam.training.recipe_file import RECIPES, packaged_recipes, recipe_file


def run(capsys, *words: str) -> tuple[int, str, str]:
    status = main(["recipes", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_folder_of_a_checkout_is_the_one_in_the_package() -> None:
    assert (Path(__file__).parents[2] / "recipes").resolve() == RECIPES
    assert {"quickstart", "paper/base", "pilot/pilot"} <= set(packaged_recipes())


def test_a_recipe_is_found_by_its_name_and_by_its_path_where_there_is_no_checkout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("pilot/pilot", "pilot/pilot.yaml", "recipes/pilot/pilot.yaml"):
        assert recipe_file(given) == RECIPES / "pilot" / "pilot.yaml"
    assert (
        read_study("recipes/pilot/pilot.yaml").title == read_study("pilot/pilot").title == "CPU pilot on SmolLM2 135M"
    )


def test_a_file_of_ones_own_comes_before_a_recipe_of_that_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("title: My own\n")
    assert read_study("quickstart").title == "My own"


def test_every_recipe_is_listed_with_the_first_sentence_of_its_header(capsys) -> None:
    status, out, _ = run(capsys, "list", "--json")
    found = {entry["name"]: entry["summary"] for entry in json.loads(out)}
    assert status == 0 and list(found) == packaged_recipes()
    assert found["quickstart"] == (
        "The first look: SmolLM2-135M as it is, with LoRA and with HyCAM, on five real tasks that come with pip alone."
    )
    assert all(len(summary) > 20 for summary in found.values())
    assert run(capsys, "list")[1].count("\n") == len(found)


def test_a_copy_is_the_recipe_and_replaces_nothing(tmp_path: Path, capsys) -> None:
    text = (RECIPES / "paper" / "base.yaml").read_text()
    assert run(capsys, "show", "paper/base")[:2] == (0, text)
    assert run(capsys, "copy", "paper/base", str(tmp_path))[:2] == (0, f"{tmp_path / 'base.yaml'}\n")
    assert (tmp_path / "base.yaml").read_text() == text
    status, _, said = run(capsys, "copy", "quickstart", str(tmp_path / "base.yaml"))
    assert status == 1 and "is there already" in said and (tmp_path / "base.yaml").read_text() == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "quikstart"], 'There is no recipe quikstart. Did you mean "quickstart"?'),
        (["show", "../recipe"], "There is no recipe ../recipe."),
        (["copy", "quickstart", "no/such/folder.yaml"], "There is no folder no/such"),
    ],
)
def test_what_is_not_there_is_named(words: list[str], said: str, capsys) -> None:
    status, _, error = run(capsys, *words)
    assert status == 1 and said in error
