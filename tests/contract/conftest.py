"""The cases as a fixture with their backend, and a note on each test of which architecture and variant it was about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hycam import set_backend

from .cases import ALL_CASES, CASES, Case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``case`` is every method; ``adapter_case`` those with an adapter, for what full fine-tuning cannot promise."""
    in_test = set(CASES)
    for fixture in {"case", "adapter_case"} & set(metafunc.fixturenames):
        params = [pytest.param(case, id=case.name, marks=() if case in in_test else pytest.mark.soak)
                  for case in ALL_CASES if fixture == "case" or case.is_adapter]  # fmt: skip
        metafunc.parametrize(fixture, params)


@pytest.fixture(autouse=True)
def _remember_and_set_backend(request: pytest.FixtureRequest, record_property) -> Iterator[None]:
    (fixture,) = {"case", "adapter_case"} & set(request.fixturenames)
    case: Case = request.getfixturevalue(fixture)
    record_property("contract", (case.architecture, case.variant, request.node.originalname))
    with set_backend(case.backend):
        yield
