"""Preflight: whether a run fits and is consistent, before anything expensive. ``hycam check`` shows it."""

from hycam.training.preflight.findings import Finding, Findings, log_all, stop_at_errors

CHILD = "--trial"
"""``hycam check --trial FOLDER`` is one of the processes that :func:`trial.try_out` starts."""

__all__ = ["CHILD", "Finding", "Findings", "log_all", "stop_at_errors"]
