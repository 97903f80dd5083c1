"""How a verb imports the libraries that it runs with, which takes seconds: only once its arguments are understood."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hycam.errors import HycamError

OF_STUDY = ("scipy", "pandas", "tabulate", "jinja2", "matplotlib", "sklearn")  # the extra `study`; others are `train`'s


@contextmanager
def importing() -> Iterator[None]:
    """Within, Ctrl-C ends in one line instead of a traceback from the middle of a library.

    Raises:
        HycamError: a package is missing; the message says how to install it.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual == signal.default_int_handler:  # a shell ignores it for commands in the background
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "hycam":
            raise
        extra = "study" if error.name.partition(".")[0] in OF_STUDY else "train"
        raise HycamError(f"{error.name} is not installed: pip install 'hycam[{extra}]'.") from error
    finally:
        if signal.getsignal(signal.SIGINT) == _leave:
            signal.signal(signal.SIGINT, usual)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nhycam: stopped.\n")
    os._exit(128 + number)
