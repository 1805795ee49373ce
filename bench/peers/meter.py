"""Counts what a peer has done and says when measuring begins and ends; then the process is over.

The harness gives everything by environment: ``BROKERS``, ``TOPIC``, ``RUN`` (a name that no other run has),
``DATA`` (a folder of this run), ``WARM`` (records before measuring begins) and ``TOTAL`` (records in all).
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime

BROKERS = os.environ["BROKERS"]
TOPIC = os.environ["TOPIC"]
RUN = os.environ["RUN"]
DATA = os.environ["DATA"]
PARTITIONS = 4


class Meter:
    """Two lines on standard output: records, CPU seconds of this process and the wall clock at WARM and TOTAL."""

    def __init__(self) -> None:
        self.records = 0
        self._marks = [int(os.environ["WARM"]), int(os.environ["TOTAL"])]

    def add(self, records: int = 1) -> None:
        """So many records more are done."""
        self.records += records
        if self.records >= self._marks[0]:
            self._mark()

    def _mark(self) -> None:
        del self._marks[0]
        mark = {"records": self.records, "cpu": time.process_time(), "wall": time.perf_counter()}
        # On a line of its own, whatever the engine itself has written.
        os.write(1, b"\nMARK " + json.dumps(mark).encode() + b"\n")
        if not self._marks:
            # At once: how long each takes to say goodbye is not the question.
            os._exit(0)


State = tuple[int, float, float, float]
"""Purchases, the last one's time (seconds), what was spent, the average gap: the bare state of a customer."""


def step(state: State | None, time: float, amount: float) -> State:
    """The state after one more purchase."""
    if state is None:
        return 1, time, amount, 0.0
    count, last, total, gap = state
    passed = time - last
    return count + 1, time, total + amount, passed if count == 1 else gap + 0.2 * (passed - gap)


def seconds(text: str) -> float:
    """An instant of RFC 3339 in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
