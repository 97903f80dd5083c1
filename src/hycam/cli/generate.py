"""``hycam generate RUN``: answers to prompts from arguments, a file or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hycam.cli.arguments import parse
from hycam.cli.importing import importing
from hycam.console import Reporter, counted, quiet_libraries
from hycam.data.recipe import DataRecipe, TaskRecipe
from hycam.errors import HycamError, UsageError

_ALWAYS = ("instruction", "input")


def main(arguments: Sequence[str]) -> None:
    """Answers each instruction greedily, in the prompt form of the run's training."""
    parser = ArgumentParser(
        prog="hycam generate", exit_on_error=False,
        description="Answers of a run to instructions: from the arguments, a file (--file), or standard input by line.",
    )  # fmt: skip
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("prompts", type=str, nargs="*", help="instructions")
    parser.add_argument("--file", type=str | TaskRecipe | None, default=None,
                        help="a data file, or anything else that data.tasks takes; answers may be missing")  # fmt: skip
    parser.add_argument("--max_new_tokens", type=PositiveInt, default=256, help="most tokens in an answer")
    parser.add_argument("--batch_size", type=PositiveInt, default=8, help="prompts answered at once")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of plain text")
    chosen = parse(parser, arguments)
    with importing():
        from hycam.adapt import empty_backbone
        from hycam.backbones import config, load_tokenizer
        from hycam.data.asked import asked_ids
        from hycam.data.chat import end_token
        from hycam.evaluation.generation import generate
        from hycam.machine import share_cores
        from hycam.tables import Tables
        from hycam.training.run import Run
    run = Run(Path(chosen.run))
    recipe = run.recipe()
    asked = _asked(chosen.prompts, parser.instantiate(chosen).file, recipe.data)
    quiet_libraries()
    share_cores()
    tokenizer = load_tokenizer(recipe.backbone, recipe.trust_remote_code)
    thinks = bool((run.summary() or {}).get("thinks"))  # whether the answers in training began with a thought
    asked, ids = asked_ids(asked, tokenizer, recipe.data.prompt, thinks, recipe.data.skip_bad_rows)
    # Before the weights are loaded: on a GPU an index beyond a table kills the process.
    empty = empty_backbone(config(recipe.backbone, recipe.trust_remote_code), recipe.trust_remote_code)
    Tables.of(empty).check(ids, chosen.max_new_tokens)
    model, _ = run.load()
    with Reporter() as reporter:
        progress = counted(reporter.update, "generation", len(ids))
        end = cast(int, tokenizer.convert_tokens_to_ids(end_token(tokenizer, recipe.data.prompt)))
        answers = generate(model, tokenizer, ids, chosen.max_new_tokens, chosen.batch_size, progress, end)
    for row, answer in zip(asked, answers, strict=True):
        shown = {
            name: row[name] for name in ("system", "history", "instruction", "input") if row[name] or name in _ALWAYS
        }
        print(json.dumps({**shown, "response": answer}, ensure_ascii=False) if chosen.json else answer)


def _asked(prompts: list[str], file: str | TaskRecipe | None, recipe: DataRecipe) -> list[dict[str, Any]]:
    if file is not None:
        if prompts:
            raise UsageError(f'Both "{prompts[0]}" and --file are given: give instructions in one way.')
        from hycam.data.asked import asked_rows

        return asked_rows(file, recipe)
    lines = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise HycamError(
            "There is nothing to answer: give instructions as arguments, with --file, or by line on standard input."
        )
    return [{"instruction": line, "input": "", "system": "", "history": []} for line in lines]
