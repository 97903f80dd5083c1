"""The studies of ``tests/study``, for the command line."""

from study.conftest import in_file, inline, tiny_study

__all__ = ["in_file", "inline", "tiny_study"]
