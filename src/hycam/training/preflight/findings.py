"""The findings of a check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from hycam.errors import HycamError

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        severity: ``error``: the run would fail or be worthless; ``warning``: it would run, though perhaps not as
            intended; ``ok``: checked, and in order.
        about: ``settings``, ``backbone``, ``method``, ``data``, ``output``, ``disk``, ``memory`` or ``trial``.
        text: what is wrong, where, and what to do.
        details: the figures behind it.
    """

    severity: Literal["error", "warning", "ok"]
    about: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


class Findings(list[Finding]):
    """Findings in order; ``about`` is the default of each."""

    def __init__(self, about: str = "") -> None:
        super().__init__()
        self._about = about

    def error(self, text: str, about: str | None = None, **details: Any) -> None:
        self.append(Finding("error", about or self._about, text, details))

    def warn(self, text: str, about: str | None = None, **details: Any) -> None:
        self.append(Finding("warning", about or self._about, text, details))

    def ok(self, text: str, about: str | None = None, **details: Any) -> None:
        self.append(Finding("ok", about or self._about, text, details))

    def attempt(self, check: Callable[..., T], *arguments: Any, about: str | None = None) -> T | None:
        """What ``check`` returns; None if it raises a HycamError, which becomes a finding."""
        try:
            return check(*arguments)
        except HycamError as error:
            self.error(str(error), about)
            return None

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self if one.severity == "error"]


def stop_at_errors(findings: Iterable[Finding]) -> None:
    """Logs the warnings, and raises one HycamError with the texts of all errors, if there are any."""
    found = list(findings)
    log_all(one for one in found if one.severity == "warning")
    if errors := [one.text for one in found if one.severity == "error"]:
        raise HycamError("\n".join(errors))


def log_all(findings: Iterable[Finding]) -> None:
    """Logs warnings and errors without ending the run."""
    for one in findings:
        if one.severity != "ok":
            _log.warning("%s", one.text)
