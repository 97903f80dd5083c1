"""Settings for the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

# No test may reach for a hub: what is needed comes from the package registry or is made here. The libraries read this
# when they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import torch

# Without a CUDA device the Triton kernels run in Triton's interpreter. Triton looks at this when it is imported, which
# the libraries do; torch alone does not.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import transformers

from architecture_table import pytest_runtest_logreport, pytest_sessionfinish  # noqa: F401
from architectures import tiny
from byte_tokenizer import byte_tokenizer

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are shared


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--architecture-table", help="write the table of verified architectures to this file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in (config.getoption("-m") or ""):
        # The marker itself: the keywords have the names of the folders above as well.
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(autouse=True)
def _same_state_in_every_test() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    # The command line quietens the libraries for its process, which here goes on.
    if "datasets" in sys.modules:
        sys.modules["datasets"].enable_progress_bars()
    logging.getLogger("hycam").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tests of this process keep prepared data."""
    return tmp_path_factory.mktemp("data-cache")


@pytest.fixture(autouse=True)
def _own_data_cache(data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("datasets"):  # without the application's packages the library is tested alone
        monkeypatch.setattr("hycam.data.cache.cache_folder", lambda: data_cache)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the paper's five datasets: ``$HYCAM_DATA``, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("HYCAM_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the paper's datasets are not here (HYCAM_DATA)")
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny backbone with a tokenizer that reads any text."""
    folder = tmp_path_factory.mktemp("backbone")
    tiny(
        "llama", vocab_size=258, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=1
    ).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of two small tasks, 20 rows each: counting on, and saying it backwards."""
    folder = tmp_path_factory.mktemp("tasks")
    made = {
        "counting": [(f"Go on from {n}", f"{n + 1} {n + 2}") for n in range(20)],
        "mirror": [(f"Turn round: ab{n}", f"{n}ba"[::1]) for n in range(20)],
    }
    for name, rows in made.items():
        lines = [json.dumps({"instruction": asked, "input": "", "output": answer}) for asked, answer in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return [str(folder / f"{name}.jsonl") for name in made]
