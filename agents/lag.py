"""How far behind a partition is in seconds, from what its fetches have shown.

Kafka tells where a log ends, not when the records before its end came. So each end is noted when it is first
seen: a record below it that is not applied has been there since then at least. What was there before anything was
noted is told by the time of the last record that was applied.
"""

from __future__ import annotations

from collections import deque

FINE = 64
"""Ends are noted so many times in the span of those that are remembered: a lag may seem shorter by so small a part."""


class Lag:
    """Of one partition of a topic since its claim. Instants in seconds, whatever the clock."""

    __slots__ = ("_ends", "_first")

    def __init__(self) -> None:
        self._ends: deque[tuple[int, float]] = deque()
        self._first: tuple[int, float] | None = None

    def seconds(self, applied: int, end: int, last: float, now: float) -> float:
        """For how long the oldest record that is not applied has been there.

        ``applied``: the next offset to apply; ``end``: the end of the log as last seen; ``last``: Kafka's time of the
        last record applied since the claim (0: none).
        """
        if self._first is None:
            self._first = end, now
        while self._ends and self._ends[0][0] <= applied:
            self._ends.popleft()
        if end <= applied:
            return 0.0
        newest, first = (self._ends[-1], self._ends[0][1]) if self._ends else ((0, 0.0), 0.0)
        if newest[0] < end and now - newest[1] >= (now - first) / FINE:
            self._ends.append((end, now))
        since = self._ends[0][1]
        if applied < self._first[0] and last:
            # There before we looked. It may have come long after the record before it: an upper bound.
            since = min(since, last)
        return max(0.0, now - since)
