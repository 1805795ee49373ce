"""Warnings judged: which were right, how early they came, and what a plain limit on silence would have done.

Everything is measured in whole days. A *silence* begins with a purchase day and ends with the next one. It is
*lost* when no purchase comes within the horizon of H days. A warning counts on customers who are active when
warned (fewer than H days silent), the first in a silence; it is right when the silence is lost, and its lead is
the days that were left: last purchase + H minus the day of the warning.

Judged are the silences that begin in a span at whose end all their horizons have passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NEVER: Final = 2**40
"""The day of what did not happen."""


class Silences(NamedTuple):
    """``customer`` (a place) and ``begin`` (day) of each, sorted by both, and the day of the ``following``
    purchase (``NEVER``: none came)."""

    customer: Ints
    begin: Ints
    following: Ints

    def lost(self, horizon: int) -> NDArray[np.bool_]:
        """Whether no purchase came within the horizon."""
        return self.following - self.begin > horizon

    def of(self, customer: Ints, day: Ints) -> Ints:
        """Which silence of each customer a day lies in (purchase days begin one); -1 before the first."""
        key = self.customer * NEVER + self.begin
        found = np.searchsorted(key, customer * NEVER + day, side="right") - 1
        if not len(key):
            return found
        mine = (found >= 0) & (self.customer[np.maximum(found, 0)] == customer)
        return np.where(mine, found, -1)


def silences(customer: Ints, day: Ints) -> Silences:
    """From the purchase days of customers, in any order, each once or more."""
    if not len(day):
        none = np.zeros(0, dtype=np.int64)
        return Silences(none, none, none)
    key = np.unique(customer * NEVER + day)
    who, begin = key // NEVER, key % NEVER
    following = np.full(len(key), NEVER, dtype=np.int64)
    same = who[1:] == who[:-1]
    following[:-1][same] = begin[1:][same]
    return Silences(who, begin, following)


class Verdict(NamedTuple):
    """``warnings``, of which ``right``; ``precision`` and ``recall`` (share of the lost silences that were
    warned of), the median ``lead`` of the right ones in days, and warnings for 1,000 active customers a week.
    None where there is nothing to divide by."""

    warnings: int
    right: int
    precision: float | None
    recall: float | None
    lead: float | None
    weekly: float | None


class Judge:
    """The silences that begin from ``first`` to ``last`` (days, both included), with a horizon of so many days.

    ``active``: active customers on an average day of the span, the thousand of whom warnings are counted.
    """

    def __init__(self, found: Silences, horizon: int, first: int, last: int) -> None:
        self.silences, self.horizon = found, horizon
        self.first, self.last = first, last
        self.judged = (found.begin >= first) & (found.begin <= last)
        self.lost = found.lost(horizon)
        self.losses = int((self.judged & self.lost).sum())
        days = max(last - first + 1, 1)
        self.weeks = days / 7.0
        # A silence keeps its customer active until it ends, for a horizon at most.
        begin = np.maximum(found.begin, first)
        end = np.minimum(np.minimum(found.following, found.begin + horizon), last + 1)
        self.active = float(np.maximum(end - begin, 0).sum() / days)

    def verdict(self, silence: Ints, day: Ints) -> Verdict:
        """On warnings: the silence and the day of each. Of several in a silence the first counts, and none that
        came when its customer was active no more."""
        where, when = self._counted(silence, day)
        lost = self.lost[where]
        right = int(lost.sum())
        lead = (self.silences.begin[where] + self.horizon - when)[lost]
        return Verdict(
            warnings=len(where),
            right=right,
            precision=right / len(where) if len(where) else None,
            recall=right / self.losses if self.losses else None,
            lead=float(np.median(lead)) if right else None,
            weekly=len(where) / self.weeks / self.active * 1000.0 if self.active else None,
        )

    def limit(self, days: int) -> Verdict:
        """Of warning whoever has been silent for so many days; 0 warns everybody at each purchase."""
        mine = np.flatnonzero(self.judged & (self.silences.following - self.silences.begin > days))
        return self.verdict(mine, self.silences.begin[mine] + days)

    def limits(self) -> list[Verdict]:
        """The verdict of every limit from 0 up to a day less than the horizon."""
        return [self.limit(days) for days in range(self.horizon)]

    def _counted(self, silence: Ints, day: Ints) -> tuple[Ints, Ints]:
        order = np.lexsort((day, silence))
        silence, day = silence[order], day[order]
        keep = silence >= 0
        keep[keep] &= self.judged[silence[keep]]
        keep[keep] &= day[keep] - self.silences.begin[silence[keep]] < self.horizon
        silence, day = silence[keep], day[keep]
        first = np.ones(len(silence), dtype=np.bool_)
        first[1:] = silence[1:] != silence[:-1]
        return silence[first], day[first]


def earliest(verdicts: Iterable[Verdict], precision: float | None) -> int | None:
    """Which of them is right at least so often and has the longest median lead (the first of equals)."""
    best: int | None = None
    longest = -1.0
    for place, verdict in enumerate(verdicts):
        enough = precision is not None and verdict.precision is not None and verdict.precision >= precision
        if enough and verdict.lead is not None and verdict.lead > longest:
            best, longest = place, verdict.lead
    return best


class Heights:
    """How high the score of each silence had come by when: what any threshold would have warned of.

    ``see`` is told of scores day by day; a score counts where it is higher than all before in its silence.
    """

    def __init__(self) -> None:
        self._who: list[Ints] = []
        self._day: list[Ints] = []
        self._score: list[Floats] = []
        self._best = np.zeros(0)
        self._since: Ints = np.zeros(0, dtype=np.int64)

    def see(self, customer: Ints, begin: Ints, day: int, score: Floats) -> None:
        """Scores of customers on a day, whose silence began on day ``begin``."""
        if not len(customer):
            return
        self._room(int(customer.max()) + 1)
        fresh = self._since[customer] != begin
        best = np.where(fresh, -1.0, self._best[customer])
        higher = score > best
        self._since[customer] = begin
        self._best[customer] = np.where(higher, score, best)
        if higher.any():
            self._who.append(customer[higher])
            self._day.append(np.full(int(higher.sum()), day, dtype=np.int64))
            self._score.append(score[higher].astype(np.float32).astype(np.float64))

    def _room(self, wanted: int) -> None:
        have = len(self._best)
        if wanted <= have:
            return
        more = max(1024, 2 * wanted) - have
        self._best = np.concatenate([self._best, np.full(more, -1.0)])
        self._since = np.concatenate([self._since, np.full(more, -1, dtype=np.int64)])

    def verdicts(self, judge: Judge, thresholds: Iterable[float]) -> list[Verdict]:
        """Of warning as soon as the score reaches a threshold, for each."""
        if not self._who:
            none = np.zeros(0, dtype=np.int64)
            return [judge.verdict(none, none) for _ in thresholds]
        who, day, score = np.concatenate(self._who), np.concatenate(self._day), np.concatenate(self._score)
        silence = judge.silences.of(who, day)
        return [judge.verdict(silence[above], day[above]) for above in (score >= each for each in thresholds)]
