"""``hycam inspect`` on a tiny run: what it prints is what the inspection functions give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hycam.cli.main import main
from hycam.data.prepare import prepare
from hycam.inspection.modulation import modulation_map
from hycam.inspection.routing import routing_by_task, routing_of_text
from hycam.training.run import Run

TEXT = "Go on [/from] $3"


@pytest.fixture(scope="module")
def runs(backbone: str, tasks: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The run folders of HyCAM and LoRA after three steps."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("hycam", "lora"):
        (folder / f"{name}.yaml").write_text(
            f"backbone: {backbone}\noutput: {folder / name}\nmethod: {{name: {name}, config: {{r: 4}}}}\n"
            f"data: {{tasks: {json.dumps(tasks)}, max_length: 300}}\n"
            "training: {max_steps: 3, learning_rate: 1e-1, device: cpu}\n"
        )
        assert main(["train", str(folder / f"{name}.yaml")]) == 0
    return {name: str(folder / name) for name in ("hycam", "lora")}


def printed(capsys, *words: str) -> dict:
    capsys.readouterr()
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_routing_is_that_of_the_part_by_task(runs: dict[str, str], capsys) -> None:
    run = Run(Path(runs["hycam"]))
    model, tokenizer = run.load()
    rows = prepare(run.recipe().data, tokenizer).train
    assert printed(capsys, runs["hycam"], "--part", "train", "--rows", "5") == routing_by_task(
        model, tokenizer, rows, rows=5
    )
    assert main(["inspect", runs["hycam"], "--layer", "1"]) == 0
    shown = capsys.readouterr().out
    assert "mirror" in shown
    assert "Mutual information" in shown


def test_a_text_is_shown_token_by_token(runs: dict[str, str], capsys) -> None:
    model, tokenizer = Run(Path(runs["hycam"])).load()
    ids = tokenizer(TEXT)["input_ids"]
    routing = printed(capsys, runs["hycam"], "--text", TEXT)
    np.testing.assert_allclose(routing["weights"], routing_of_text(model, ids))
    assert "".join(routing["tokens"][1:]) == TEXT.replace(" ", "·")  # one token for each byte, after the first token
    found = printed(capsys, runs["hycam"], "modulation", "--text", TEXT, "--layer", "0")
    np.testing.assert_allclose(found["total"], modulation_map(model, ids, 0).total, rtol=1e-6)
    assert np.abs(found["total"]).max() > 0
    assert main(["inspect", runs["hycam"], "--text", TEXT]) == 0
    assert main(["inspect", runs["hycam"], "modulation", "--text", TEXT]) == 0
    assert capsys.readouterr().out.count("suppressed") == 1


def test_representations_of_any_adapter_and_their_figure(runs: dict[str, str], tmp_path: Path, capsys) -> None:
    where = ("representations", "--part", "train", "--rows", "8")
    found = printed(capsys, runs["lora"], *where)
    assert found["layer"] == 1
    assert np.shape(found["on"]) == np.shape(found["off"]) == (16, 2)
    assert found["distance_on"] != found["distance_off"]
    assert main(["inspect", runs["hycam"], *where, "--figure", str(tmp_path / "drawn" / "plane.png")]) == 0
    assert "adapter off" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["plane.png", "plane.svg"]


def test_figures_of_routing_and_of_the_modulation(runs: dict[str, str], tmp_path: Path, capsys) -> None:
    figure = ("--figure", str(tmp_path / "figure"))
    for words in (("--text", TEXT), ("modulation", "--text", TEXT)):
        assert main(["inspect", runs["hycam"], *words, *figure]) == 0
        assert f"Figure: {tmp_path / 'figure.png'}" in capsys.readouterr().out
        (tmp_path / "figure.png").unlink()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["hycam", "modulation"], 2, "--text"),
        (["hycam", "modulatoin"], 2, "modulatoin"),
        (["hycam", "--layer", "2"], 1, "layers 0 to 1"),
        (["hycam", "modulation", "--text", "x", "--layer", "2"], 1, "layers 0 to 1"),
        (["hycam", "representations", "--layer", "0"], 1, "layer from 1 on"),
        (["hycam", "representations", "--rows", "2"], 1, "more rows"),
        (["lora"], 1, "no HyCAM router"),
        (["lora", "--text", "x"], 1, "no HyCAM router"),
        (["lora", "modulation", "--text", "x"], 1, "no active HyCAM adapter"),
        (["nowhere"], 1, "not a run folder"),
    ],
)
def test_what_cannot_be_shown_is_one_message(
    runs: dict[str, str], words: list[str], status: int, message: str, capsys
) -> None:
    run, *rest = words
    capsys.readouterr()
    assert main(["inspect", runs.get(run, run), *rest]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
