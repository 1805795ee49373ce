"""The rhythm: how long a customer usually lets pass between purchase days.

The rhythm is a fold over distinct shop-local purchase days in ascending order. The last
``WINDOW`` days stay as they are, so that a purchase that arrives late still finds its place;
older days are folded into ``base`` for good.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from math import log
from typing import NamedTuple

import msgspec

WINDOW = 16
WEIGHT = 0.2
"""Smallest weight of the newest gap: the first gaps average, later ones are smoothed (EWMA)."""


class Fold(NamedTuple):
    """Count, exponentially weighted mean and variance of the logarithm of gaps in days.

    Incremental form after West (1979) and Finch (2009): with weight a and deviation d,
    mean += a d and variance = (1 - a)(variance + a d^2).
    """

    gaps: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, days: int) -> Fold:
        """The fold after one more gap of ``days`` (at least 1)."""
        n = self.gaps + 1
        a = max(WEIGHT, 1.0 / n)
        d = log(days) - self.mean
        return Fold(n, self.mean + a * d, (1.0 - a) * (self.variance + a * d * d))


class Rhythm(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``days``: the last purchase days, ascending; ``base``: the gaps before them; ``now``: all gaps."""

    days: tuple[int, ...] = ()
    base: Fold = Fold()
    now: Fold = Fold()

    def add(self, day: int) -> Rhythm | None:
        """The rhythm with one more purchase day; itself if the day is known; None if the day is
        older than the days kept, which leaves the rhythm alone and is counted as late."""
        days = self.days
        if not days:
            return Rhythm((day,))
        last = days[-1]
        if day == last:
            return self
        if day > last:
            now = self.now.add(day - last)
            if len(days) < WINDOW:
                return Rhythm((*days, day), self.base, now)
            return Rhythm((*days[1:], day), self.base.add(days[1] - days[0]), now)
        place = bisect_left(days, day)
        if days[place] == day:
            return self
        if place == 0 and (len(days) == WINDOW or self.base.gaps):
            return None
        days = (*days[:place], day, *days[place:])
        base = self.base
        if len(days) > WINDOW:
            base = base.add(days[1] - days[0])
            days = days[1:]
        now = base
        for earlier, later in pairwise(days):
            now = now.add(later - earlier)
        return Rhythm(days, base, now)
