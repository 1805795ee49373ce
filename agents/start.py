"""Where ``churnwatch`` starts: while it is loaded, Ctrl-C ends it without a word."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130
"""``agents.failure.Code.INTERRUPTED``, which is not loaded yet."""


def main() -> int:
    """Loads the command line and runs it; the exit code."""
    # Python's own handler would raise in the middle of an import, and show all that was being imported. Whoever
    # starts us with the signal ignored wants it ignored.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from agents.cli import main as run  # noqa: PLC0415 -- this is what takes its time

    signal.signal(signal.SIGINT, before)
    return run()
