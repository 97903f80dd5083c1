"""The two forms of help of a verb that takes a recipe."""

from __future__ import annotations

import re

import pytest

from hycam.cli.help import RECIPE, STUDY
from hycam.cli.main import main
from hycam.study.recipe import StudyRecipe
from hycam.training.parse import field_names
from hycam.training.recipe import Recipe

VERBS = {"train": (Recipe, RECIPE), "check": (Recipe, RECIPE), "study": (StudyRecipe, STUDY),
         "report": (StudyRecipe, STUDY)}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr().out


def options(page: str) -> list[str]:
    return re.findall(r"^  --([\w.]+)", page, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_what_is_set_often_on_two_screens_and_help_all_every_field(
    verb: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    kind, groups = VERBS[verb]
    page = shown(capsys, verb, "--help")
    assert options(page) == [name for names in groups.values() for name in names]
    assert len(page.splitlines()) <= 100
    assert page == shown(capsys, verb, "recipe.yaml", "-h")
    # `methods.*.name` and `data.tasks.[].path` are no options: they stand in a value.
    fields = {name for name in field_names(kind) if "*" not in name and "[]" not in name}
    assert fields <= set(options(shown(capsys, verb, "--help", "all")))


def test_help_gives_types_defaults_and_meaning(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = shown(capsys, "train", "--help")
    assert re.search(
        r"--training\.device \{auto,cpu,cuda\}\s+Where to train; auto takes a GPU .*\(default: auto\)", page
    )
    assert re.search(r"--data\.packing \{true,false\}\s+Pack several .*\(default: false\)", page)
