"""LLaMA-Factory's list of datasets, ``dataset_info.json``, read as tasks.

An entry means what LLaMA-Factory's own parser reads, which is stricter than its documentation: ``columns`` or ``tags``
replace all default names, not single ones.
"""

from __future__ import annotations

import difflib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hycam.data.messages import TAGS
from hycam.data.read import decoded, parsed, unreadable
from hycam.data.recipe import TaskRecipe
from hycam.data.sources import expanded
from hycam.errors import HycamError, encodable, nearest, unknown

_log = logging.getLogger(__name__)

_FILE = "dataset_info.json"


@dataclass(frozen=True)
class _Names:
    """LLaMA-Factory's keys with ours, those that are required, and the defaults."""

    ours: dict[str, str]
    needed: tuple[str, ...]
    defaults: dict[str, str] = field(default_factory=dict)


_ALPACA = _Names(
    ours={"prompt": "instruction", "query": "input", "response": "response", "history": "history", "system": "system"},
    needed=("prompt", "response"),
    defaults={"prompt": "instruction", "query": "input", "response": "output"},
)
_CONVERSATION = _Names(
    ours={"messages": "messages", "system": "system", "tools": "tools"},
    needed=("messages",),
    defaults={"messages": "conversations"},
)
_FORMATTINGS = {"alpaca": _ALPACA, "sharegpt": _CONVERSATION, "openai": _CONVERSATION}  # the last two differ by tools

# No defaults: ShareGPT's spelling, which is LLaMA-Factory's default, and OpenAI's are both recognised.
_TAGS = _Names(
    ours={**{f"{one}_tag": one for one in TAGS[:5]}, "observation_tag": "tool", "function_tag": "call"},
    needed=("role_tag", "content_tag", "user_tag", "assistant_tag"),
)

_ALIKE = 0.76  # of difflib's ratio: "samples" counts as a misspelt "num_samples", but a note's "task" not as "tags"

_MEDIA = ("images", "videos", "audios")
_ELSEWHERE = {  # in the order of precedence, before a file and after the Hugging Face hub
    "ms_hub_url": "on ModelScope",
    "om_hub_url": "on openMind",
    "script_url": "loaded by a script, and code that comes with data is not run",
    "cloud_file_name": "in cloud storage",
}
_KEYS = {
    "the entry": (
        *("file_name", "hf_hub_url", *_ELSEWHERE, "formatting", "ranking", "subset", "split", "revision", "folder"),
        *("num_samples", "media_dir", "columns", "tags"),
    ),
    "columns": (*_ALPACA.ours, "messages", "tools", *_MEDIA, "chosen", "rejected", "kto_tag"),
    "tags": tuple(_TAGS.ours),
}


@dataclass(frozen=True)
class DatasetInfo:
    """The entries of a ``dataset_info.json`` by name, unparsed.

    Such a list has many entries that are not for instruction tuning. They are an error only if one is asked for.
    """

    path: Path
    entries: dict[str, dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """Of all entries, usable or not."""
        return list(self.entries)

    def task(self, name: str) -> TaskRecipe:
        """The entry of that name as a task; does not check that its data exist.

        Raises:
            HycamError: there is no such entry, or it cannot be used; the message says why.
        """
        if name not in self.entries:
            raise unknown(f"entry in {self.path}", name, self.entries)
        try:
            return _task(self.path.parent, name, self.entries[name])
        except HycamError as reason:
            raise HycamError(f'{self.path}: "{name}" cannot be used: {reason}.') from None

    def tasks(self) -> list[TaskRecipe]:
        """All usable entries, in the order of the file; one warning counts and names the others.

        Raises:
            HycamError: none is usable.
        """
        usable, refused = [], {}
        for name in self.entries:
            try:
                usable.append(self.task(name))
            except HycamError as error:
                refused[name] = error
        if not usable:
            first = "".join(f" {error}" for error in list(refused.values())[:1])
            raise HycamError(f"{self.path} has no entry to train on.{first}")
        if refused:
            _log.warning(
                "%s: %d of %d entries cannot be used and are skipped: %s. Name one as a task to see why.",
                self.path,
                len(refused),
                len(self.entries),
                encodable(", ".join(refused)),
            )
        return usable


def dataset_info(path: str | Path) -> DatasetInfo:
    """The list at ``path``: a ``dataset_info.json``, or its folder.

    Raises:
        HycamError: there is no such file, or it is not such a list; the message has the place.
    """
    file = path = expanded(str(path))
    try:
        file = path / _FILE if path.is_dir() else path
        text = decoded(file, file.read_bytes()).removeprefix("\ufeff")
    except OSError as error:
        raise unreadable(file, error) from error
    entries = parsed(file, text, "one JSON object with an entry for each dataset")
    if not isinstance(entries, dict):
        raise HycamError(
            f"{file}: an object with an entry for each dataset was expected, not {_shown(entries)}. "
            "A file of rows is a task of its own: name it under tasks."
        )
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise HycamError(
                f'{file}: "{name}" is {_shown(entry)}, and an object that describes a dataset was expected. '
                f"Is it LLaMA-Factory's? The library datasets saves another kind of {_FILE}."
            )
    return DatasetInfo(file, entries)


def _task(folder: Path, name: str, entry: dict[str, Any]) -> TaskRecipe:
    """Raises HycamError with a clause, without capital and full stop, on why the entry cannot be used."""
    columns, tags = _object(entry, "columns"), _object(entry, "tags")
    for where, stated in (("the entry", entry), ("columns", columns or {}), ("tags", tags or {})):
        _check_spelling(where, stated)
    _check_purpose(entry, columns or {})

    formatting = _text(entry, "formatting") or "alpaca"
    if formatting not in _FORMATTINGS:
        meant, known = nearest(formatting, _FORMATTINGS), ", ".join(_FORMATTINGS)
        raise HycamError(f'its formatting is "{formatting}", which is unknown.{meant} Known: {known}')
    names = _FORMATTINGS[formatting]
    if names is _ALPACA and (columns or {}).get("tools"):
        raise HycamError(
            'its instructions have "tools", which only conversations can have here: remove them from "columns"'
        )
    recipe = TaskRecipe(name=name, columns=_ours("columns", columns, names), rows=_rows(entry))
    recipe.turns = "all"  # regardless of the default here: LLaMA-Factory trains earlier answers, too
    if names is _CONVERSATION:
        recipe.tags = _ours("tags", tags, _TAGS)
        if recipe.tags:  # without it, LLaMA-Factory skips conversations with a system message
            recipe.tags.setdefault("system", "system")
    _locate(recipe, folder, entry)
    return recipe


def _check_spelling(where: str, stated: dict[str, Any]) -> None:
    """Refuses a key that resembles a known one that is missing.

    LLaMA-Factory ignores unknown keys. So must we, since each release adds some and people keep notes in their
    entries; but ignoring a misspelt key would silently change what is read.
    """
    missing = [key for key in _KEYS[where] if key not in stated]
    for key in stated:
        if key not in _KEYS[where] and (meant := difflib.get_close_matches(key, missing, n=1, cutoff=_ALIKE)):
            raise HycamError(f'"{key}" in {where} is unknown. Did you mean "{meant[0]}"? Correct or remove it')


def _check_purpose(entry: dict[str, Any], columns: dict[str, Any]) -> None:
    if entry.get("ranking"):
        raise HycamError('it ranks answers ("ranking"), and only training on given answers is supported')
    if columns.get("kto_tag"):
        raise HycamError('its answers are rated ("kto_tag"), and only training on given answers is supported')
    for medium in _MEDIA:
        if columns.get(medium):
            raise HycamError(f'it has {medium} (the column "{columns[medium]}"), and only text is supported')


def _ours(kind: str, stated: dict[str, Any] | None, names: _Names) -> dict[str, str]:
    """What an entry states under ``kind``, or the defaults, under our keys."""
    if stated is None:
        return {names.ours[key]: value for key, value in names.defaults.items()}
    found = {ours: value for key, ours in names.ours.items() if (value := _text(stated, key))}
    for key in names.needed:
        if names.ours[key] not in found:
            why = f"if {kind} are named, none has a default"
            if key == "response":  # text for pre-training is listed so, with a prompt alone
                why = "training on text without an answer is not supported"
            raise HycamError(f'its "{kind}" name no "{key}", and {why}')
    return found


def _rows(entry: dict[str, Any]) -> int | None:
    rows = entry.get("num_samples")
    if rows is None:
        return None
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise HycamError(f'its "num_samples" is {_shown(rows)}, and a whole number above 0 was expected')
    return rows


def _locate(recipe: TaskRecipe, folder: Path, entry: dict[str, Any]) -> None:
    """Sets where the data are: the first place that the entry names, in LLaMA-Factory's order."""
    split = _text(entry, "split") or "train"
    if hub := _text(entry, "hf_hub_url"):
        if _text(entry, "folder"):
            raise HycamError(
                'one "folder" of a hub dataset cannot be chosen: fetch that folder, and name it under "file_name" '
                'instead of "hf_hub_url"'
            )
        recipe.hub, recipe.hub_split = hub, split
        recipe.subset, recipe.revision = _text(entry, "subset"), _text(entry, "revision")
        return
    for key, where in _ELSEWHERE.items():
        if entry.get(key):
            raise HycamError(
                f'its data are {where} ("{key}"): save them to a file, and name that under "file_name" instead'
            )
    file = _text(entry, "file_name")
    if not file:
        raise HycamError('it does not say where its data are: "file_name" or "hf_hub_url" was expected')
    if split != "train":
        raise HycamError(f'a file has no split "{split}": name a file with only these rows, or remove "split"')
    recipe.path = str(folder / file)


def _object(entry: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, dict):
        raise HycamError(f'its "{key}" is {_shown(value)}, and an object with names was expected')
    return value


def _text(stated: dict[str, Any], key: str) -> str | None:
    """The text under ``key``; None if it is missing, null or empty, which LLaMA-Factory treats alike."""
    value = stated.get(key)
    if value is not None and not isinstance(value, str):
        raise HycamError(f'its "{key}" is {_shown(value)}, and text in quotes was expected')
    return value or None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
