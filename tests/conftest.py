"""Settings for the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

# No test may reach for a hub: what is needed comes from the package registry or is made here. The libraries read this
# when they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import transformers

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are shared


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--architecture-table", help="write the table of verified architectures to this file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in (config.getoption("-m") or ""):
        kept = [item for item in items if "soak" not in item.keywords]
        config.hook.pytest_deselected(items=[item for item in items if "soak" in item.keywords])
        items[:] = kept


@pytest.fixture(autouse=True)
def _same_draws_in_every_test() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the paper's five datasets: ``$HYCAM_DATA``, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("HYCAM_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the paper's datasets are not here (HYCAM_DATA)")
    return folder
