"""Several methods on the same data."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hycam.errors import HycamError
from hycam.training.compare import compare
from hycam.training.recipe import Candidate, Comparison
from hycam.training.report import loss_curves, print_report


@pytest.fixture
def comparison(recipe, tmp_path: Path) -> Comparison:
    one = recipe(learning_rate=None, evaluate_every=3)
    methods = {
        "base": Candidate("base"),
        "lora": Candidate("lora", {"r": 4}, 1e-2),
        "mine": Candidate("hycam", {"r": 4}, 2e-2),
    }
    return Comparison(one.backbone, str(tmp_path / "all"), methods, one.data, one.training, one.evaluation)


def test_each_method_has_its_run_folder_and_its_entry_in_the_results(comparison: Comparison) -> None:
    said: list[str] = []
    results = compare(comparison, said.append)
    folder = Path(comparison.output)
    assert json.loads((folder / "results.json").read_text()) == results
    assert said == ["base (1 of 3)", "lora (2 of 3)", "mine (3 of 3)"]
    assert {key: value["learning_rate"] for key, value in results.items()} == {"base": None, "lora": 1e-2, "mine": 2e-2}
    for label, result in results.items():
        assert set(result["tasks"]) == {"counting", "mirror"}
        assert {"perplexity", "bleu4", "rougeL"} <= set(result["tasks"]["mirror"])
        assert result["perplexity"] == result["macro"]["perplexity"]
        assert result["peak_memory_bytes"] > 50e6
        assert result["seconds"] > 0
        assert (result["trainable_parameters"] > 0) == (label != "base")
        assert (folder / label / "adapter").exists() == (label != "base")
    assert results["mine"]["perplexity"] < results["base"]["perplexity"]

    figure = loss_curves(folder, list(results))
    assert figure.read_bytes().startswith(b"\x89PNG")
    shown = StringIO()
    print_report(comparison, results, Console(file=shown, width=160))
    for words in ("mirror", "macro", "pooled", "reference:", "mine:", f"{results['mine']['perplexity']:.3f}"):
        assert words in shown.getvalue()

    stamp = (folder / "mine" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert compare(comparison, said.append) == results  # nothing is run again
    assert (folder / "mine" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_a_comparison_that_is_refused_leaves_the_results_that_were_there(comparison: Comparison) -> None:
    comparison.methods = {"base": Candidate("base"), "mine": Candidate("hycam", {"r": 4}, 2e-2)}
    compare(comparison, lambda _: None)
    results = (Path(comparison.output) / "results.json").read_text()
    comparison.methods["mine"].learning_rate = 1e-2
    with pytest.raises(HycamError, match=r"mine holds a run of another recipe: training\.learning_rate is 0\.02"):
        compare(comparison, lambda _: None)
    assert (Path(comparison.output) / "results.json").read_text() == results


def test_mistakes_in_any_method_are_found_before_the_first_one_trains(comparison: Comparison) -> None:
    comparison.methods["wrong"] = Candidate("loraa")
    with pytest.raises(HycamError, match=r'"loraa".*"lora"'):
        compare(comparison, print)
    assert not Path(comparison.output).exists()
    comparison.methods = {}
    with pytest.raises(HycamError, match="names no method"):
        compare(comparison, print)


def test_what_fails_in_a_method_s_own_process_is_told_as_it_is(comparison: Comparison) -> None:
    comparison.data.tasks = ["no-such-task"]
    with pytest.raises(HycamError, match="no-such-task"):
        compare(comparison, lambda _: None)


def test_a_method_without_a_learning_rate_is_refused_before_the_first_one_trains(comparison: Comparison) -> None:
    comparison.methods["any"] = Candidate("peft", {"peft_type": "IA3"})
    with pytest.raises(HycamError, match="peft has no learning rate of its own"):
        compare(comparison, lambda label: pytest.fail(f"{label} was begun"))
