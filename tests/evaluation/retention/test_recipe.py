from __future__ import annotations

import pytest

from hycam.errors import HycamError
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.evaluation.retention.tasks import RETENTION_TASKS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": ["hellaswg"]}, 'Did you mean "hellaswag"'),
        ({"tasks": [""]}, 'no retention task called ""'),
        ({"tasks": ["piqa", "sciq", "piqa"]}, "names one twice"),
        ({"rows": 0}, "retention.rows is 0"),
        ({"kl_texts": -1}, "retention.kl_texts is -1"),
        ({"kl_replies": 41}, "there are 40 chat prompts"),
        ({"at_validations": True}, "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_said(settings: dict, words: str) -> None:
    with pytest.raises(HycamError, match=words):
        RetentionRecipe(**settings)


def test_nothing_is_measured_unless_asked_for() -> None:
    assert not RetentionRecipe().is_measured
    assert RetentionRecipe(tasks=list(RETENTION_TASKS)).is_measured
    assert RetentionRecipe(kl_texts=1).is_measured
    assert RetentionRecipe(kl_replies=40).is_measured
