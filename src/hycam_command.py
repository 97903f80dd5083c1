"""``hycam`` as a command. It stands outside the package, which takes seconds to import where its help needs none."""

from __future__ import annotations

is_running = False
"""Whether this process is the command: ``hycam`` then leaves its libraries to the verb that is run."""


def main() -> int:
    """Runs the command line; returns the exit status."""
    global is_running
    is_running = True
    from hycam.cli.main import main as hycam

    return hycam()
