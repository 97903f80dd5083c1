"""What the process of a cell does first, wherever it runs."""

from __future__ import annotations

import logging

import torch
import transformers

from hycam.console import quiet_libraries


def settle(threads: int) -> None:
    """Takes so many CPU threads, and keeps the console to the process that runs the study.

    That one has said already what there is to say of the data, since it planned with them.
    """
    torch.set_num_threads(threads)
    quiet_libraries(informative=False)
    transformers.logging.disable_progress_bar()
    logging.getLogger("hycam.data").setLevel(logging.ERROR)
