"""``hycam generate RUN``: answers to prompts from arguments, a file or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hycam.cli.arguments import parse
from hycam.console import Reporter, quiet_libraries
from hycam.data.encode import encode_prompts
from hycam.data.formats import read_rows
from hycam.data.prompts import end_token, render
from hycam.errors import HycamError
from hycam.evaluation.generation import generate
from hycam.training.run import Run


def main(arguments: Sequence[str]) -> None:
    """Answers each instruction greedily, in the prompt form that the run was trained on."""
    parser = ArgumentParser(
        prog="hycam generate", exit_on_error=False,
        description="Answers of a run to instructions: from the arguments, a file (--file), or standard input by line.",
    )  # fmt: skip
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("prompts", type=str, nargs="*", help="instructions")
    parser.add_argument("--file", type=str, default=None, help="a data file with instruction and, if any, input")
    parser.add_argument("--max_new_tokens", type=PositiveInt, default=256, help="most tokens in an answer")
    parser.add_argument("--batch_size", type=PositiveInt, default=8, help="prompts answered at once")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of plain text")
    chosen = parse(parser, arguments)
    run = Run(Path(chosen.run))
    recipe = run.recipe()
    asked = _asked(chosen.prompts, chosen.file)
    quiet_libraries()
    model, tokenizer = run.load()
    prompts = [render(row, recipe.data.prompt, tokenizer) for row in asked]
    ids = encode_prompts(prompts, tokenizer, recipe.data.prompt)
    with Reporter() as reporter:
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            reporter.update("generation", done, len(prompts))

        end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, recipe.data.prompt)))
        answers = generate(model, tokenizer, ids, chosen.max_new_tokens, chosen.batch_size, count, end)
    for row, answer in zip(asked, answers, strict=True):
        print(json.dumps({**row, "response": answer}, ensure_ascii=False) if chosen.json else answer)


def _asked(prompts: list[str], file: str | None) -> list[dict[str, str]]:
    if file is not None:
        return [
            {"instruction": row.text("instruction"), "input": row.text("input") if "input" in row.fields else ""}
            for row in read_rows(Path(file))
        ]
    lines = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise HycamError("There is nothing to answer: give instructions as arguments, with --file, or by line.")
    return [{"instruction": line, "input": ""} for line in lines]
