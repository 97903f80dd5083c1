"""``hycam``: the verbs, and the message and exit status when one of them fails."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from hycam.cli.importing import importing
from hycam.errors import HycamError, Interrupted, LostProcess, UsageError, nearest

VERBS = {
    "train": "adapt a backbone as a recipe says; resumes where it stopped",
    "check": "whether a recipe's settings, data, disk and memory are in order, before it is trained",
    "evaluate": "perplexity, BLEU-4 and ROUGE-L of a run, per task",
    "generate": "answers of a run to prompts",
    "study": "a grid of methods, backbones, folds and settings; resumes",
    "report": "the tables and figures of a study, on one page",
    "inspect": "how an adapter routes, what it scales, and how it changes the representations",
    "methods": "every method with its trainable parameters",
    "recipes": "the recipes that come with the package: list, show, copy",
    "data": "the tasks, a row as tokens, the embedded data",
}
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: the words after ``hycam``; None for those of this process.

    Returns:
        0 for success, 1 for an explained failure, 2 for wrong usage, 130 for Ctrl-C and 143 for a SIGTERM that
        training answered with a checkpoint.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else USAGE
    verb, *rest = words
    if verb not in VERBS:
        print(f"hycam: there is no verb {verb}.{nearest(verb, VERBS)} `hycam --help` lists them.", file=sys.stderr)
        return USAGE
    try:
        with importing():
            module = importlib.import_module(f"hycam.cli.{verb}")
        status = module.main(rest)
        sys.stdout.flush()  # raises if the reader has gone
    except HycamError as error:
        if str(error):
            _in_turn(error)
            print(f"hycam {verb}: {error}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else getattr(error, "status", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of the output has gone
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"hycam {verb}: {os.strerror(error.errno)}{where}. What was complete is still there.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        outcome = str(error) or "What was complete is still there."
        if os.environ.get("RANK", "0") == "0":  # all processes of the group got the signal
            print(f"hycam {verb}: stopped. {outcome}", file=sys.stderr)
        return 128 + number
    return status or 0


def _in_turn(error: HycamError) -> None:
    """Delays the message of all but one of the processes that train together.

    If all fail alike, the first one says so and the launcher ends the others while they wait here. A process that lost
    another one waits too, since the other knows the reason.
    """
    time.sleep(10 * (int(os.environ.get("LOCAL_RANK", "0")) > 0) + 5 * isinstance(error, LostProcess))


def _help() -> str:
    lines = [
        "usage: hycam VERB ...",
        "",
        "Contextual attention modulation for adapting one language model to tasks.",
        "",
    ]
    lines += [f"  {name:10} {what}" for name, what in VERBS.items()]
    return "\n".join([*lines, "", "`hycam VERB --help` shows a verb's arguments."])


if __name__ == "__main__":
    sys.exit(main())
