"""Preflight: whether a run fits and is consistent, before anything expensive. ``hycam check`` shows it."""

from hycam.training.preflight.findings import Finding, Findings, log_all, stop_at_errors

__all__ = ["Finding", "Findings", "log_all", "stop_at_errors"]
