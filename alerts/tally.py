"""What a partition knows of all its customers together: who stands where, what waits, how right warnings were.

Kept with the partition and changed in the commit that changes the customers, so that it is a function of the log:
exact after kills, rebalances and restores, and nobody has to look through all customers to say it.

**Scores.** Customers are counted by the tenth (equal widths, [0, .1) to [.9, 1]) of the probability last written of
them, and the counts are kept for the first instant of each week. The population stability index compares the counts
of now, a, with those of at least four weeks ago, e (while there are none, with the oldest): the sum of
(a - e) ln(a / e) over the tenths, a and e as shares (Siddiqi, *Credit Risk Scorecards*, 2006, whose limits are .1
and .25). Half a customer is added to each tenth, so that none is empty.

**Warnings.** As the backtest judges them: one warning in a silence, the live one, while the customer has been silent
for less than the horizon; it is right when the silence lasts for the whole horizon, and its lead is what was left of
it. Counted by the week in which the horizon ends; a week has matured when it is over on the partition's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Final, NamedTuple

import msgspec

from alerts import bands
from features.customer import Customer
from features.ledger import Pending
from features.shop import DAY

TENTHS: Final = 10
STAGES: Final = ("prospect", "first_purchase", "repeat", "at_risk", "lapsed")
"""As ``alerts.outlook.stage`` tells them, and ``repeat`` for those that it does not tell apart."""
WEEK: Final = 7 * DAY
WINDOW: Final = 4
"""Weeks for which matured warnings are remembered, and that the scores of before lie back."""
SECOND: Final = 1_000_000


class Place(NamedTuple):
    """Of one customer, what counts: ``orders``; ``band`` and ``score`` last written (-1: none yet); ``warned``: a
    warning stands; ``stake``: revenue at risk by it, in minor units."""

    orders: int
    band: int
    score: float
    warned: bool
    stake: int

    @classmethod
    def of(cls, customer: Customer) -> Place:
        """Where a customer stands."""
        standing = customer.standing
        return cls(
            customer.orders,
            standing.written_band,
            standing.written,
            standing.churn is not None,
            standing.stake,
        )

    @property
    def stage(self) -> int:
        """Index of the stage of life."""
        if self.orders == 0:
            return 0
        if self.band == bands.LAPSED:
            return 4
        return 3 if self.warned else 1 if self.orders == 1 else 2


class Warned(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The warnings of one week: how many, of how many the customer came back in time, and the lead of all and of
    those, in seconds."""

    warnings: int = 0
    wrong: int = 0
    lead: int = 0
    wrong_lead: int = 0

    def plus(self, other: Warned) -> Warned:
        """Both together."""
        return Warned(
            self.warnings + other.warnings,
            self.wrong + other.wrong,
            self.lead + other.lead,
            self.wrong_lead + other.wrong_lead,
        )


class Tally(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``customers`` with a state, and its ``hot`` and ``cold`` bytes; how many stand in each of ``bands``, ``STAGES``
    and ``tenths``; ``stake``: revenue at risk of those who are warned of, in minor units; ``before``: tenths by the
    week at whose beginning they were so; ``pending``: snapshots that wait for labels by day; ``warned`` by week."""

    customers: int = 0
    hot: int = 0
    cold: int = 0
    bands: tuple[int, ...] = (0,) * len(bands.NAMES)
    stages: tuple[int, ...] = (0,) * len(STAGES)
    tenths: tuple[int, ...] = (0,) * TENTHS
    stake: int = 0
    before: dict[int, tuple[int, ...]] = {}
    pending: dict[int, int] = {}
    warned: dict[int, Warned] = {}

    def until(self, was: int, clock: int) -> Tally:
        """When the partition's clock has moved from ``was``: what is too old is forgotten."""
        week = clock // WEEK
        if was // WEEK == week:
            return self
        # When the clock moves for the first time nobody has been looked at yet.
        before = {**self.before, week: self.tenths} if was else {}
        for old in sorted(before)[:-1]:
            # The newest that is old enough is what scores are compared with.
            if any(old < other <= week - WINDOW for other in before):
                del before[old]
        kept = {w: some for w, some in self.warned.items() if w >= week - WINDOW}
        return msgspec.structs.replace(self, before=before, warned=kept)


class Change:
    """What a turn changes of a tally."""

    __slots__ = ("bands", "cold", "customers", "hot", "pending", "stages", "stake", "tenths", "warned")

    def __init__(self) -> None:
        self.customers = self.hot = self.cold = self.stake = 0
        self.bands = [0] * len(bands.NAMES)
        self.stages = [0] * len(STAGES)
        self.tenths = [0] * TENTHS
        self.pending: dict[int, int] = {}
        self.warned: dict[int, Warned] = {}

    def moved(self, was: Place | None, now: Place | None) -> None:
        """A customer has come (``was`` None), stands elsewhere, or has gone (``now`` None)."""
        for where, count in ((was, -1), (now, 1)):
            if where is None:
                continue
            self.customers += count
            self.stages[where.stage] += count
            self.stake += count * where.stake
            if where.band >= 0:
                self.bands[where.band] += count
                self.tenths[tenth(where.score)] += count

    def waits(self, was: Iterable[Pending], now: Iterable[Pending]) -> None:
        """Other snapshots of a customer wait than before."""
        for pending, count in ((was, -1), (now, 1)):
            for each in pending:
                day = each.at // DAY
                self.pending[day] = self.pending.get(day, 0) + count

    def warns(self, ends: int, some: Warned) -> None:
        """Something befell a warning whose horizon ends at ``ends``."""
        week = ends // WEEK
        self.warned[week] = self.warned.get(week, Warned()).plus(some)

    def of(self, tally: Tally) -> Tally:
        """The tally after it."""
        pending, warned = tally.pending, tally.warned
        if self.pending:
            pending = {day: n for day, n in _merged(pending, self.pending) if n}
        if self.warned:
            weeks = dict(warned)
            for week, some in self.warned.items():
                known = weeks.get(week)
                # Of a week that is forgotten nothing is said any more.
                if known is not None or some.warnings:
                    weeks[week] = (known or Warned()).plus(some)
            warned = dict(sorted(weeks.items()))
        return Tally(
            tally.customers + self.customers,
            tally.hot + self.hot,
            tally.cold + self.cold,
            _sum(tally.bands, self.bands),
            _sum(tally.stages, self.stages),
            _sum(tally.tenths, self.tenths),
            tally.stake + self.stake,
            tally.before,
            pending,
            warned,
        )


def tenth(score: float) -> int:
    """Which tenth a probability lies in."""
    return min(int(score * TENTHS), TENTHS - 1)


def psi(now: Sequence[int], before: Sequence[int]) -> float:
    """The population stability index of two distributions over the tenths; see the module."""
    a_all, e_all = sum(now) + TENTHS / 2, sum(before) + TENTHS / 2
    shares = [((a + 0.5) / a_all, (e + 0.5) / e_all) for a, e in zip(now, before, strict=True)]
    return sum((a - e) * log(a / e) for a, e in shares)


class Population(NamedTuple):
    """The tallies of several partitions together, each at its clock. ``before``: tenths of before, where a partition
    knows none those of now; ``oldest``: age of the oldest snapshot that waits, in microseconds on its partition's
    clock, to the day; ``matured`` warnings of the last weeks, and those that are ``open``."""

    customers: int
    hot: int
    cold: int
    bands: tuple[int, ...]
    stages: tuple[int, ...]
    tenths: tuple[int, ...]
    before: tuple[int, ...]
    stake: int
    pending: int
    oldest: int
    matured: Warned
    open: int


def together(tallies: Iterable[tuple[Tally, int]]) -> Population:
    """The population of partitions, each with its clock."""
    total = Tally()
    before: tuple[int, ...] = (0,) * TENTHS
    pending = oldest = still = 0
    matured = Warned()
    for tally, clock in tallies:
        total = Tally(
            total.customers + tally.customers,
            total.hot + tally.hot,
            total.cold + tally.cold,
            _sum(total.bands, tally.bands),
            _sum(total.stages, tally.stages),
            _sum(total.tenths, tally.tenths),
            total.stake + tally.stake,
        )
        before = _sum(before, tally.before[min(tally.before)] if tally.before else tally.tenths)
        pending += sum(tally.pending.values())
        if tally.pending:
            # From the end of the day, so that nothing is called older than it is.
            oldest = max(oldest, clock - (min(tally.pending) + 1) * DAY)
        week = clock // WEEK
        for of, some in tally.warned.items():
            if of >= week:
                still += some.warnings - some.wrong
            elif of >= week - WINDOW:
                matured = matured.plus(some)
    return Population(
        total.customers,
        total.hot,
        total.cold,
        total.bands,
        total.stages,
        total.tenths,
        before,
        total.stake,
        pending,
        oldest,
        matured,
        still,
    )


def _sum(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _merged(one: Mapping[int, int], other: Mapping[int, int]) -> Iterable[tuple[int, int]]:
    return sorted({key: one.get(key, 0) + other.get(key, 0) for key in {*one, *other}}.items())
