"""Inputs made out of valid ones: a few changes each, so that they reach as deep as the valid ones do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

ODD_NUMBERS = (0, 1, -1, 2, 7, 10**9, -(10**30), 10**400, 0.0, -0.0, 0.5, 1e-300, 1e308, float("nan"), float("inf"))
ODD_TEXTS = (
    "", " ", "0", "-1", "1e5", "nan", "true", "null", "~", "~nobody/x", "/", "..", "../../etc/passwd", "a/b",
    "a.jsonl", "\0", "\x1b[2J", "\u2028", "\ud800", "é" * 3, "日本", "x" * 500, "{", "[", "[1,", "{instruction}",
    "{input", "%s", "*", "&a", "!!python/object/apply:os.system ['true']", "${HOME}", "class_path", "<script>",
    "=1+1", "(", "[/b]", "--help",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [None], [[]], {"a": None}, {"": {}}, ["x"], [1, "x", None],
    {"x": [1]}, {"class_path": "os.system", "init_args": {"command": "true"}}, {"name": "x"}, {"path": "a.jsonl"},
)  # fmt: skip
ODD_BYTES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u", b"\\ud800",
    b"PAR1", b"\x1f\x8b", b"null", b"1e999", b"9" * 5000, b"[" * 200, b"\x80\x04", b"- ", b"&a *a", b"\t",
)  # fmt: skip


@st.composite
def changed_tree(draw: st.DrawFn, examples: Sequence[Any], most: int = 3) -> Any:
    """One of the examples (of lists, objects and plain values), with up to ``most`` places changed."""
    tree = copy.deepcopy(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(("value", "value", "value", "drop", "rename", "copy", "nest", "swap", "grow")))
        _change(draw, tree, holder, key, how, places)
    return tree


def _change(draw: st.DrawFn, tree: Any, holder: Any, key: Any, how: str, places: list[tuple[Any, Any]]) -> None:
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        name = draw(st.sampled_from((*ODD_TEXTS, str(key)[:-1], f"{key}x", str(key).upper())))
        holder[name] = holder.pop(key)
    elif how == "copy":
        other, place = places[draw(st.integers(0, len(places) - 1))]
        holder[key] = copy.deepcopy(other[place])
    elif how == "nest":
        holder[key] = draw(st.sampled_from(([holder[key]], {"x": holder[key]}, {str(key): holder[key]})))
    elif how == "swap" and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = draw(st.sampled_from((-holder[key], holder[key] + 1, str(holder[key]), holder[key] * 1000)))
    elif how == "grow" and isinstance(holder[key], (list, str)):
        holder[key] = holder[key] * 2
    else:
        holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))


def _places(tree: Any) -> Any:
    """Every place in the tree, as what holds it and its key there."""
    todo = [tree]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            todo.append(holder[key])


@st.composite
def changed_bytes(draw: st.DrawFn, examples: Sequence[bytes], most: int = 3) -> bytes:
    """One of the examples with up to ``most`` changes: bytes put in, overwritten, cut off, taken out or doubled."""
    data = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("put", "put", "overwrite", "flip", "cut", "out", "double")))
        if how == "cut":
            del data[at:]
        elif how == "put":
            data[at:at] = draw(st.sampled_from(ODD_BYTES))
        elif how == "overwrite":
            new = draw(st.sampled_from(ODD_BYTES))
            data[at : at + len(new)] = new
        elif how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        else:
            end = min(len(data), at + draw(st.integers(1, 60)))
            data[end:end] = data[at:end] if how == "double" else b""
            if how == "out":
                del data[at:end]
    return bytes(data)
