"""The look grid: when a silent customer is looked at again.

After the last decision-point event looks come daily to day 14, then each time a tenth later, at
most seven days apart. A hash of the customer staggers them within the first step, so that a shop's
customers are not all due at once.
"""

from __future__ import annotations

from bisect import bisect_right

from xxhash import xxh3_64_intdigest

from alerts.policy import Policy
from features.shop import DAY

_DAILY = 14
_GROWTH = 1.1


class Grid:
    """The grid of one application, for a step of ``look_days`` that grows to ``look_max_days``."""

    def __init__(self, application: str, policy: Policy) -> None:
        self._application = application
        self.step = round(policy.look_days * DAY)
        self._longest = round(policy.look_max_days * DAY)
        offsets = [k * self.step for k in range(1, _DAILY + 1)]
        while True:
            step = max(self.step, round(offsets[-1] * (_GROWTH - 1.0)))
            if step >= self._longest:
                break
            offsets.append(offsets[-1] + step)
        self._offsets = offsets

    def stagger(self, customer: str) -> int:
        """Microseconds, above 0 and up to one step, after which this customer's first look comes."""
        digest = xxh3_64_intdigest(f"{self._application}\0{customer}".encode("utf-8", "surrogatepass"))
        return self.step * (digest % 1_000_000 + 1) // 1_000_000

    def next(self, start: int, stagger: int, after: int) -> int:
        """The first look on the grid of ``start`` (the last decision-point event) later than ``after``."""
        origin = start + stagger - self.step
        passed = after - origin
        offsets = self._offsets
        if passed < offsets[-1]:
            return origin + offsets[bisect_right(offsets, passed)]
        return origin + offsets[-1] + ((passed - offsets[-1]) // self._longest + 1) * self._longest
