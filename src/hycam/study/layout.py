"""Whether a result file has the layout that its readers rely on, said by the name of what is wrong in it.

The checksum tells a file that was changed. It does not tell one that was written by an older version, by another
program, or changed by who can compute a checksum too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hycam.errors import HycamError

STATES = ("done", "failed", "diverged")
_LARGEST = 1 << 53  # of a whole number that is one in floating point, too
_MOST_NATS = 700  # of which the perplexity is a number still

Check = Callable[[str, Any], None]
"""Is given what a value is called and the value; raises HycamError where it is not as it should be."""


def check_layout(content: Mapping[str, Any]) -> None:
    """Checks the content of a result file, as :mod:`hycam.study.results` describes it.

    Raises:
        HycamError: something is missing or of another kind; the message has its name, with dots.
    """
    _one_of(*STATES)("state", content.get("state"))
    _HEAD("", content)
    if content["state"] != "done":
        _fields({"failure": _fields({"reason": _text, "step": _maybe(_count)})})("", content)
        return
    _DONE("", content)
    evaluation = content["evaluation"]
    for name, scores in {"macro": evaluation["macro"], "pooled": evaluation["pooled"], **evaluation["tasks"]}.items():
        if scores["perplexity"] is not None and not 0 <= (scores["nll"] or 0) <= _MOST_NATS:
            raise HycamError(f"the nll of its evaluation of {name} is {scores['nll']}, which is of no perplexity")
    if set(evaluation["rows"]) != set(evaluation["tasks"]):
        raise HycamError("it has evaluation.rows of other tasks than evaluation.tasks")
    for task, rows in evaluation["rows"].items():
        _same_lengths(f"evaluation.rows.{task}", rows)
        if len(set(rows["row"])) < len(rows["row"]):
            raise HycamError(f"evaluation.rows.{task}.row names a row twice")
    if content["retention"]:
        for task, kept in content["retention"]["tasks"].items():
            _same_lengths(f"retention.tasks.{task}.items", kept["items"])
    if content["routing"]:
        _check_routing(content["routing"])


def _refuse(name: str, value: Any, expected: str) -> HycamError:
    shown = repr(value)
    return HycamError(f"its {name} is {shown if len(shown) <= 40 else shown[:39] + '…'}, where {expected} was expected")


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise _refuse(name, value, "a number")


def _logged(name: str, value: Any) -> None:
    """A figure of the log may be no finite number: that is how a training that diverges looks."""
    if isinstance(value, float) and not math.isfinite(value):
        return
    _number(name, value)


def _positive(name: str, value: Any) -> None:
    _number(name, value)
    if value <= 0:
        raise _refuse(name, value, "a number above 0")


def _count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise _refuse(name, value, "a whole number of at least 0")


def _some(name: str, value: Any) -> None:
    _count(name, value)
    if not value:
        raise _refuse(name, value, "a whole number above 0")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _refuse(name, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refuse(name, value, "text without half a character") from None


def _bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")


def _one_of(*known: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in known:
            raise _refuse(name, value, f"one of {', '.join(known)}")

    return check


def _maybe(inner: Check) -> Check:
    def check(name: str, value: Any) -> None:
        if value is not None:
            inner(name, value)

    return check


def _each(inner: Check) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise _refuse(name, value, "a list")
        for at, item in enumerate(value):
            inner(f"{name}.{at}", item)

    return check


def _by_name(inner: Check) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _refuse(name, value, "an object")
        for key, item in value.items():
            _text(f"{name} (a name)", key)
            inner(f"{name}.{key}", item)

    return check


def _anything(name: str, value: Any) -> None:
    """Settings are compared with those of the study, whatever they are."""


def _fields(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields, and any others, which a later version may have added."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _refuse(name, value, "an object")
        before = f"{name}." if name else ""
        for key, inner in needed.items():
            if key not in value:
                raise HycamError(f"it lacks {before}{key}, which another version may not have written")
            inner(before + key, value[key])
        for key, inner in (optional or {}).items():
            if key in value:
                inner(before + key, value[key])

    return check


def _same_lengths(name: str, columns: Mapping[str, Any]) -> None:
    lengths = {len(column) for column in columns.values() if isinstance(column, list)}
    if len(lengths) != 1:
        raise HycamError(f"the lists of its {name} are of different lengths")


def _check_routing(routing: Mapping[str, Any]) -> None:
    layers, experts = routing["layers"], routing["experts"]
    for task, of_task in routing["tasks"].items():
        weights = of_task["weights"]
        if len(weights) != layers or any(len(of_layer) != experts for of_layer in weights):
            raise HycamError(f"its routing.tasks.{task}.weights are not {layers} layers of {experts} modules")
    if len(routing["mutual_information"]) != layers:
        raise HycamError(f"its routing.mutual_information has not the {layers} layers of the routing")


_HEAD = _fields(
    {
        "identity": _text,
        "data": _text,
        "settings": _by_name(_anything),
        "cell": _fields({"backbone": _text, "method": _text, "fold": _count, "seed": _count, "task": _maybe(_text),
                         "settings": _by_name(_anything)}),
        "environment": _fields({"versions": _by_name(_maybe(_text)), "commit": _maybe(_text), "platform": _text,
                                "processor": _maybe(_text), "cores": _maybe(_count), "gpu": _maybe(_text)}),
        "curve": _each(_fields({"step": _count, "elapsed": _number})),
        "seconds": _maybe(_number),
    }
)  # fmt: skip

_SCORES = {name: _maybe(_number) for name in ("perplexity", "nll", "bleu4", "rougeL")}

_DONE = _fields(
    {
        "seconds": _positive,
        "curve": _each(_by_name(_maybe(_logged))),
        "training": _maybe(_fields(
            {
                **dict.fromkeys(("steps", "peak_memory_bytes", "trainable_parameters", "total_parameters",
                                 "adapter_bytes"), _count),
                "tokens": _some, "seconds": _positive, "learning_rate": _positive, "rows": _by_name(_count),
                "shares": _by_name(_number), "validation": _by_name(_logged),
            }
        )),
        "evaluation": _fields(
            {
                "part": _one_of("test", "validation"),
                "tasks": _by_name(_fields({**_SCORES, "tokens": _some, "rows": _some, "generated_rows": _count},
                                           dict.fromkeys(("bleu_signature", "rouge_tokens"), _maybe(_text)))),
                "macro": _fields({**_SCORES, "perplexity_mean": _maybe(_number)}),
                "pooled": _fields(_SCORES),
                "bleu_signature": _maybe(_text),
                "max_new_tokens": _count,
                "rows": _by_name(_fields({"row": _each(_text), "nll": _each(_maybe(_number)), "tokens": _each(_some),
                                          "rougeL": _each(_maybe(_number))})),
            }
        ),
        "retention": _maybe(_fields({
            "tasks": _by_name(_fields({
                "rows": _some, **dict.fromkeys(("bits_per_byte", "base_bits_per_byte", "difference"), _number),
                "accuracy": _maybe(_number), "base_accuracy": _maybe(_number),
                "items": _fields({"row": _each(_text), "bits": _each(_number), "base_bits": _each(_number),
                                  "bytes": _each(_some), "correct": _maybe(_each(_bool)),
                                  "base_correct": _maybe(_each(_bool))}),
            })),
            "kl": _by_name(_fields({"mean": _number, "tokens": _count, "texts": _count})),
        })),
        "routing": _maybe(_fields({
            "tasks": _by_name(_fields({"tokens": _count, "weights": _each(_each(_number))})),
            "mutual_information": _each(_number), "layers": _some, "experts": _some,
        })),
    }
)  # fmt: skip
