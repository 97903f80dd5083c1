"""What a comparison shows, whatever the number of its methods."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from hycam.training.report import comparison_table, loss_curves


def metrics(perplexity: float, bleu4: float | None = None) -> dict:
    figures = {"perplexity": perplexity, "bleu4": bleu4, "rougeL": None, "rows": 3, "generated_rows": 0}
    return {"tasks": {"mirror": figures, "counting": figures}, "pooled": figures,
            "macro": {**figures, "perplexity_mean": perplexity}}  # fmt: skip


def shown(results: dict[str, dict]) -> list[list[str]]:
    text = StringIO()
    Console(file=text, width=100).print(comparison_table(results))
    return [line.split() for line in text.getvalue().splitlines()]


def test_few_methods_are_columns_and_many_are_rows_none_of_which_is_cut() -> None:
    few = {f"method-{k}": metrics(k + 1.5) for k in range(3)}
    assert shown(few)[0] == list(few)
    many = {f"method-{k}": metrics(k + 1.5) for k in range(40)}
    lines = shown(many)
    assert lines[0] == ["perplexity", "mirror", "counting", "macro"]
    assert lines[1:] == [[label, *[f"{k + 1.5:.3f}"] * 3] for k, label in enumerate(many)]


def test_scores_of_answers_have_columns_where_there_are_answers() -> None:
    many = {f"method-{k}": metrics(2.0, 0.25) for k in range(7)}
    assert shown(many)[0][-1] == "BLEU-4"
    assert shown(many)[1][-1] == "0.250"


def test_curves_are_drawn_for_as_many_methods_as_there_are_colours(tmp_path: Path) -> None:
    for k in range(11):
        (tmp_path / f"m{k}").mkdir()
        (tmp_path / f"m{k}" / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    assert loss_curves(tmp_path, [f"m{k}" for k in range(10)]) is not None
    assert loss_curves(tmp_path, [f"m{k}" for k in range(11)]) is None
