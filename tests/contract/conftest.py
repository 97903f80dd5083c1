"""The cases as a fixture, and a note on each test of which architecture and variant it was about."""

from __future__ import annotations

import pytest

from .cases import ALL_CASES, CASES, Case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        in_test = set(CASES)
        params = [pytest.param(case, id=case.name, marks=() if case in in_test else pytest.mark.soak)
                  for case in ALL_CASES]  # fmt: skip
        metafunc.parametrize("case", params)


@pytest.fixture(autouse=True)
def _remember(request: pytest.FixtureRequest, record_property) -> None:
    if "case" in request.fixturenames:
        case: Case = request.getfixturevalue("case")
        record_property("contract", (case.architecture, case.variant, request.node.originalname))
