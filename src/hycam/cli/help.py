"""``hycam VERB --help`` for a recipe: the fields that people set often. ``--help all`` shows every field."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse

from hycam.training.parse import field_names

RECIPE = {
    "What is adapted": ("backbone", "quantization", "method.name", "method.config", "output"),
    "What it is trained on": ("data.tasks", "data.prompt", "data.max_length", "data.packing", "data.train_rows",
                              "data.mixture.strategy"),
    "How it is trained": ("training.learning_rate", "training.epochs", "training.max_steps", "training.batch_size",
                          "training.gradient_accumulation", "training.precision", "training.device",
                          "training.gradient_checkpointing", "training.distributed.strategy", "training.seed"),
    "What is kept and shown": ("training.evaluate_every", "training.save_every", "training.report_to"),
    "How it is evaluated": ("evaluation.part", "evaluation.max_new_tokens", "evaluation.generate_rows"),
}  # fmt: skip
STUDY = {
    "What is compared": ("methods", "backbones", "folds", "seeds", "vary", "single_tasks", "reference"),
    "On what": ("data.tasks", "data.prompt", "data.max_length", "data.train_rows"),
    "How each is trained": ("training.epochs", "training.max_steps", "training.batch_size", "training.precision",
                            "training.save_every", "sweep.learning_rates", "learning_rates_from"),
    "How each is evaluated": ("evaluation.part", "evaluation.generate_rows", "retention.tasks"),
    "Where it runs, and what it leaves": ("executor.name", "executor.workers", "executor.threads", "output", "tables",
                                          "texts"),
}  # fmt: skip


def often_set(kind: type, groups: Mapping[str, Sequence[str]], prog: str, description: str) -> str:
    """A page of help with the fields of a recipe's dataclass that ``groups`` names, nested ones with dots."""
    word = "STUDY" if groups is STUDY else "RECIPE"
    page = argparse.ArgumentParser(
        prog=prog, usage=f"{prog} {word} [--FIELD VALUE ...]", description=description, add_help=False,
        epilog=f"{word} is a YAML file with these fields. `{prog} --help all` shows all {len(field_names(kind))}.",
    )  # fmt: skip
    defaults = kind()
    for title, names in groups.items():
        group = page.add_argument_group(title)
        for name in names:
            annotation, what = _field(kind, name)
            default = attrgetter(name)(defaults)
            shown = "" if default is None or default in ([], {}) else f" (default: {_spelled(default)})"
            values = [_spelled(value) for value in _values(annotation)]
            metavar = f"{{{','.join(values)}}}" if values else name.rpartition(".")[2].upper()
            group.add_argument(f"--{name}", metavar=metavar, help=(what + shown).replace("%", "%%"))
    return page.format_help()


def _spelled(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _field(kind: type, name: str) -> tuple[Any, str]:
    """The annotation of a field, and what the docstring of its dataclass says of it."""
    *outer, last = name.split(".")
    for part in outer:
        kind = get_type_hints(kind)[part]
    (what,) = (one.description or "" for one in parse(kind.__doc__ or "").params if one.arg_name == last)
    return get_type_hints(kind)[last], re.sub(r"``(.+?)``", r"\1", what.replace("\n", " "))


def _values(annotation: Any) -> tuple[Any, ...]:
    """The values that a field may have, if they are few and known."""
    if annotation is bool:
        return True, False
    kinds = (annotation, *get_args(annotation))
    return next((get_args(one) for one in kinds if get_origin(one) is Literal), ())
