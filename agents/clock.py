"""The wall clock of a partition: time runs, but only as far as everything has been read.

An event that lies unread is no silence. So the clock is the least, over the input topics, of how far each
has been read, and it stands still for a while after the brokers were away, because then producers deliver
late what they kept back. Everything here is a function of what was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Micros = int

SECOND: Micros = 1_000_000
# Fetch responses of a healthy broker come several times a second, with or without records.
PAUSE: Micros = 5 * SECOND
# A topic in steady use is never read to its very end; this far behind it counts as read.
NEARLY: Micros = 10 * SECOND
# How far another topic has been read where there is no other.
ALWAYS: Micros = 1 << 62


class View(NamedTuple):
    """How far one topic of a partition has been read.

    ``applied``: the next offset to apply; ``popped``: the next after all that was handed over;
    ``at_end``: whether the fetcher's position had reached the end of the log; ``fetched``: the instant of
    the last fetch response (0: none since the claim); ``last``: Kafka's time of the last record applied
    since the claim (0: none).
    """

    applied: int
    popped: int
    at_end: bool
    fetched: Micros
    last: Micros

    @property
    def all_read(self) -> bool:
        """Whether all there was at ``fetched`` has been applied."""
        return self.fetched > 0 and self.at_end and self.applied >= self.popped

    @property
    def read_to(self) -> Micros:
        """Up to when nothing of this topic is unread."""
        return self.fetched if self.all_read else self.last


class Fetches(NamedTuple):
    """The last fetch response of each topic, and until when the clock stands still."""

    at: Mapping[str, Micros] = {}
    hold: Micros = 0

    def after(self, views: Mapping[str, View], grace: Micros) -> Fetches:
        """With what was observed since. A pause, or a first response, holds the clock for ``grace``."""
        at = dict(self.at)
        hold = self.hold
        for topic, view in views.items():
            if view.fetched <= 0:
                continue
            if topic not in at or view.fetched - at[topic] > PAUSE:
                hold = max(hold, view.fetched + grace)
            at[topic] = max(view.fetched, at.get(topic, 0))
        return Fetches(at, hold)


def clock(views: Mapping[str, View], fetches: Fetches, now: Micros) -> Micros:
    """The instant up to which silence is real; 0 while the clock stands still."""
    if now < fetches.hold:
        return 0
    return min(now, *(view.read_to for view in views.values()))


def others_read_to(views: Mapping[str, View], topic: str, fetches: Fetches, now: Micros) -> Micros:
    """Up to when every input topic but ``topic`` has been read."""
    others = [view.read_to for name, view in views.items() if name != topic]
    if not others:
        return ALWAYS
    return 0 if now < fetches.hold else min(others)


def everything_read(views: Mapping[str, View]) -> Micros | None:
    """The instant at which every topic had been read to its end; None while one has not."""
    if all(view.all_read for view in views.values()):
        return min(view.fetched for view in views.values())
    return None


def caught_up(views: Mapping[str, View], now: Micros) -> bool:
    """Whether every topic has been read to its end, or to records that were written a moment ago."""
    return all(view.all_read or view.last >= now - NEARLY for view in views.values())
