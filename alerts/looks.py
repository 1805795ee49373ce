"""The look grid: when a silent customer is looked at again.

After the last decision-point event looks come daily to day 14, then each time a tenth later, at
most seven days apart. A hash of the customer staggers them within the first step, so that a shop's
customers are not all due at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from alerts.policy import Policy
from features.shop import DAY

_DAILY = 14
_GROWTH = 1.1
_STRETCH = 7
"""Looks, and days, after which a silent customer is looked at whatever is expected."""
_AHEAD = 1_000
"""Instants of the grid that are written down: nobody is looked at for as long, customers lapse."""


class Grid:
    """The grid of one application, for a step of ``look_days`` that grows to ``look_max_days``."""

    def __init__(self, application: str, policy: Policy) -> None:
        self._salt = f"{application}\0".encode("utf-8", "surrogatepass")
        self.step = round(policy.look_days * DAY)
        self._longest = round(policy.look_max_days * DAY)
        offsets = [k * self.step for k in range(1, _DAILY + 1)]
        while True:
            step = max(self.step, round(offsets[-1] * (_GROWTH - 1.0)))
            if step >= self._longest:
                break
            offsets.append(offsets[-1] + step)
        self._offsets = offsets
        self._written, self._last = self._stretches()

    def _stretches(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The grid far ahead, and which of its instants end a stretch: the seventh, or the last before another
        seven days have passed, whichever comes first. The same wherever on the grid one asks."""
        written = list(self._offsets)
        while len(written) < _AHEAD:
            written.append(written[-1] + self._longest)
        last = []
        count = 0
        for at, following in pairwise([*written, written[-1] + self._longest]):
            count += 1
            ends = count == _STRETCH or following // (_STRETCH * DAY) > at // (_STRETCH * DAY)
            last.append(ends)
            count = 0 if ends else count
        return np.array(written, dtype=np.int64), np.array(last)

    def stagger(self, customer: str) -> int:
        """Microseconds, above 0 and up to one step, after which this customer's first look comes."""
        digest = xxh3_64_intdigest(self._salt + customer.encode("utf-8", "surrogatepass"))
        return self.step * (digest % 1_000_000 + 1) // 1_000_000

    def coming(
        self, start: NDArray[np.int64], after: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The instants after ``after`` of each customer's grid, one column each, and whether one ends a stretch.

        ``start`` is the last decision-point event plus the stagger. Every column has the end of a stretch in it.
        """
        origin = start - self.step
        first = np.searchsorted(self._written, after - origin, side="right")
        # Whoever is looked at beyond what is written down is looked at like at its end.
        beyond = first >= _AHEAD - _STRETCH
        places = np.where(beyond, _AHEAD - _STRETCH, first) + np.arange(_STRETCH)[:, None]
        at = origin + self._written[places]
        last = self._last[places]
        if beyond.any():
            passed = (after - at[0]) // self._longest + 1
            at = np.where(beyond, at + np.maximum(passed, 0) * self._longest, at)
            last = last | beyond
        return at, last

    def next(self, start: int, stagger: int, after: int) -> int:
        """The first look on the grid of ``start`` (the last decision-point event) later than ``after``."""
        origin = start + stagger - self.step
        passed = after - origin
        offsets = self._offsets
        if passed < offsets[-1]:
            return origin + offsets[bisect_right(offsets, passed)]
        return origin + offsets[-1] + ((passed - offsets[-1]) // self._longest + 1) * self._longest

    def nexts(
        self, start: NDArray[np.int64], stagger: NDArray[np.int64], after: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """``next`` of many."""
        origin = start + stagger - self.step
        passed = after - origin
        end = self._offsets[-1]
        offsets = self._written[: len(self._offsets)]
        near = offsets[np.minimum(np.searchsorted(offsets, passed, side="right"), len(offsets) - 1)]
        far = end + ((passed - end) // self._longest + 1) * self._longest
        found: NDArray[np.int64] = origin + np.where(passed < end, near, far)
        return found

    def staggers(self, customers: Sequence[bytes]) -> NDArray[np.int64]:
        """``stagger`` of many, by their keys."""
        salt = self._salt
        digests = np.array([xxh3_64_intdigest(salt + key) for key in customers], dtype=np.uint64)
        return self.step * ((digests % 1_000_000).astype(np.int64) + 1) // 1_000_000
