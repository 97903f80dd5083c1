"""What a check has found, and the collection of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from hycam.errors import HycamError

Severity = Literal["error", "warning", "ok"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: ``error``: the run would fail, or be worth nothing; ``warning``: it would run, though perhaps not as
            it was meant; ``ok``: looked at, and in order.
        about: ``settings``, ``backbone``, ``method``, ``data``, ``output``, ``disk`` or ``memory``.
        text: what is found, where, and what to do.
        details: the figures behind it.
    """

    severity: Severity
    about: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


class Findings(list[Finding]):
    """Findings in the order in which they were made."""

    def error(self, about: str, text: str, **details: Any) -> None:
        self.append(Finding("error", about, text, details))

    def warn(self, about: str, text: str, **details: Any) -> None:
        self.append(Finding("warning", about, text, details))

    def ok(self, about: str, text: str, **details: Any) -> None:
        self.append(Finding("ok", about, text, details))

    def attempt(self, about: str, check: Callable[..., T], *arguments: Any) -> T | None:
        """What ``check`` gives. What it raises for a user to read becomes an error among these, and the result None."""
        try:
            return check(*arguments)
        except HycamError as error:
            self.error(about, str(error))
            return None

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self if one.severity == "error"]


def stop_at_errors(findings: Iterable[Finding]) -> None:
    """Logs what is a warning, and raises what is an error, all of it at once.

    Raises:
        HycamError: there is an error.
    """
    errors = []
    for one in findings:
        if one.severity == "warning":
            _log.warning("%s", one.text)
        elif one.severity == "error":
            errors.append(one.text)
    if errors:
        raise HycamError("\n".join(errors))


def log_all(findings: Iterable[Finding]) -> None:
    """Logs warnings, and errors as well: of what can be trained although it is hardly meant so."""
    for one in findings:
        if one.severity != "ok":
            _log.warning("%s", one.text)
