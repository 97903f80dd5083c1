"""What every input has to end in: a result, or a message for a reader; soon, and with no memory kept."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hycam.errors import HycamError

SECONDS = 10.0  # of one input; most take a hundredth


class TookTooLong(BaseException):
    """Not an Exception, so that nothing takes it for a failure of its own and goes on."""


class Encoding(logging.Handler):
    """Fails where what is logged could not be written to a file."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage().encode()


@contextmanager
def explained() -> Iterator[None]:
    """Lets a HycamError with a message pass, and the help that was asked for; ends what takes over ``SECONDS``."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"an input took more than {SECONDS} s")

    log, encoding = logging.getLogger("hycam"), Encoding()
    log.addHandler(encoding)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except HycamError as error:
        assert str(error).strip(), "a message that says nothing"
        str(error).encode()
    except SystemExit as end:  # after `--help`
        assert end.code == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        log.removeHandler(encoding)


def resident_bytes() -> int:
    """What this process holds in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
