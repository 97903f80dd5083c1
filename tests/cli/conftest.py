"""Studies whose cells run in this process."""

from __future__ import annotations

import pytest

from hycam.study import runner
from hycam.study.run_cell import run_cell
from study.tiny import Inline


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """The cells run in this process."""
    made = Inline(run_cell)
    monkeypatch.setattr(runner, "executor", lambda recipe: made)
    return made
