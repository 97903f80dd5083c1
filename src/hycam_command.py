"""``hycam`` as a command. It stands outside the package, which takes seconds to import, so that from the first moment
Ctrl-C ends in one line instead of a traceback from the middle of a library."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Imports the command line and runs it; returns the exit status."""
    usual = signal.getsignal(signal.SIGINT)
    if usual == signal.default_int_handler:  # a shell ignores it for commands in the background
        signal.signal(signal.SIGINT, _leave)
    from hycam.cli.main import main as hycam

    def imported() -> None:
        signal.signal(signal.SIGINT, usual)

    return hycam(imported=imported)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nhycam: stopped.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
