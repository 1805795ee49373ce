"""``churnwatch`` with a wall clock that can be set while it runs: ``python -m tests.chaos.stepped FILE worker``.

FILE holds the seconds by which the clock is ahead. Whatever is written in Python (the product, Faust, aiokafka, redis)
reads the clock by ``time``; ``time.monotonic``, which no machine ever sets back, stays. (Debian's libfaketime 0.9.10
would do it for the whole process, but makes ``time.sleep`` of Python 3.11 fail.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LOOK = 0.1
"""Seconds between two looks at the file."""

_now, _now_ns, _monotonic = time.time, time.time_ns, time.monotonic


class Clock:
    """The machine's clock, and how far ahead of it this process believes to be."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._looked = -LOOK
        self._ahead = 0

    def ahead(self) -> int:
        """In seconds."""
        if _monotonic() - self._looked > LOOK:
            self._looked = _monotonic()
            self._ahead = int(self._file.read_text() or 0)
        return self._ahead

    def time(self) -> float:
        """Instead of ``time.time``."""
        return _now() + self.ahead()

    def time_ns(self) -> int:
        """Instead of ``time.time_ns``."""
        return _now_ns() + self.ahead() * 1_000_000_000


if __name__ == "__main__":
    clock = Clock(Path(sys.argv[1]))
    # Before anything is imported that may keep these functions under names of its own.
    time.time, time.time_ns = clock.time, clock.time_ns
    from agents.cli import main

    sys.exit(main(sys.argv[2:]))
