"""The score's inputs for many customers at once: one contiguous row per input."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import log
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import decay
from features.customer import RECENT_DAYS, Customer
from features.decay import HALF_LIVES
from features.shop import DAY, HOUR
from features.signals import Signals

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """What a score may know of customers at instants: one array per input, of one value per customer, or of one
    row per instant where time alone changes it. Zero, or neutral, where a shop sends nothing of the kind.

    - ``recency``: days since the last purchase; ``age``: days since the first; ``repeats``: purchases after the
      first.
    - ``gaps``, ``gap_mean``, ``gap_variance``: gaps between purchase days, exponentially weighted mean and
      variance of the logarithm of their days; ``last_gap``: logarithm of the last one's (0: there is none).
    - ``bought_7``, ``bought_30``, ``bought_90``: purchases, decayed with that half-life in days.
    - ``order_value``: mean paid for an order, in minor units of the base currency; ``value_trend``: logarithm of the
      mean decayed over 90 days to it; ``discount_share``: discount as a share of list value; ``returned_90``:
      returns, decayed.
    - ``abandoned``: share of the decayed weight of categories that stopped while others went on (see
      ``features.cold.abandoned``).
    - ``browsed_7``, ``browsed_30``, ``browsed_90``: views and searches, decayed; ``browse_recency``: days since
      the last, at most 365 (0: there was none); ``empty_searches_30``: searches that found nothing;
      ``carts_30``: items put into a cart; ``used_30``, ``used_90``: uses.
    - ``rating``: how far the newest review stays below three of five stars, as a share of five.
    - ``open_complaints``, ``overdue_complaints``: counts; ``recent_complaint``: 1 if one ended within 30 days;
      ``bad_complaints``: complaints reopened, or closed without a resolution, decayed over 90 days.
    - ``satisfaction``: newest survey answer as a share of its scale, 1 before the first; ``said_lost``: 1 if the
      customer was said to be lost after the last purchase.
    """

    recency: Floats
    age: Floats
    repeats: Floats
    gaps: Floats
    gap_mean: Floats
    gap_variance: Floats
    last_gap: Floats
    bought_7: Floats
    bought_30: Floats
    bought_90: Floats
    order_value: Floats
    value_trend: Floats
    discount_share: Floats
    returned_90: Floats
    abandoned: Floats
    browsed_7: Floats
    browsed_30: Floats
    browsed_90: Floats
    browse_recency: Floats
    empty_searches_30: Floats
    carts_30: Floats
    used_30: Floats
    used_90: Floats
    rating: Floats
    open_complaints: Floats
    overdue_complaints: Floats
    recent_complaint: Floats
    bad_complaints: Floats
    satisfaction: Floats
    said_lost: Floats


NAMES: Final = Inputs._fields
_PER_DAY_7, _PER_DAY_30, _PER_DAY_90 = (float(np.log(2.0) / days) for days in HALF_LIVES)
_LONGEST_BROWSE = 365.0
_STEEPEST = 3.0
_OF_BROWSING: Final = frozenset({"browsed_7", "browsed_30", "browsed_90", "browse_recency"})
_NO_SIGNALS: Final = Signals()
_FACTS: Final = 35
_pack: Final = struct.Struct(f"={_FACTS - 1}d").pack
_pack_one: Final = struct.Struct("=d").pack
_NONE_LATE: Final = _pack_one(0.0)
EVERY: Final = frozenset(NAMES)


def rows(customers: Sequence[Customer], at: Sequence[int], overdue_hours: float) -> Floats:
    """What does not change while a customer is silent, one contiguous row per fact. Complaints are overdue
    or not as of ``at`` (microseconds)."""
    overdue = overdue_hours * HOUR
    return table([facts(c) + late(c, instant, overdue) for c, instant in zip(customers, at, strict=True)])


def table(found: Sequence[bytes]) -> Floats:
    """The rows of many customers, of each what ``facts`` and ``late`` gave."""
    together = np.frombuffer(b"".join(found), dtype=np.float64)
    return together.reshape(len(found), _FACTS).T.copy()


def late(c: Customer, at: int, overdue: float) -> bytes:
    """What of ``rows`` depends on the instant: how many complaints have been open for ``overdue`` microseconds."""
    if not c.open_since:
        return _NONE_LATE
    return _pack_one(sum(1 for opened in c.open_since if at - opened >= overdue))


def facts(c: Customer) -> bytes:
    """One customer's part of ``rows``, packed, but for what ``late`` adds."""
    s = c.signals or _NO_SIGNALS
    days = c.rhythm.days
    now = c.rhythm.now
    mean = c.spend / c.orders if c.orders else 0.0
    listed = c.spend + c.discount
    return _pack(
        c.last_purchase,
        c.first_purchase,
        c.orders - 1,
        now.gaps,
        now.mean,
        now.variance,
        log(days[-1] - days[-2]) if len(days) > 1 else 0.0,
        *c.bought,
        mean,
        _trend(c, mean) if c.orders > 1 else 0.0,
        c.discount / listed if listed else 0.0,
        c.abandoned,
        c.last_browse,
        *c.browsed,
        c.last_use,
        c.used[1],
        c.used[2],
        s.returns_90,
        s.returned_at,
        s.empty_30,
        s.empty_at,
        s.carts_30,
        s.carted_at,
        max(0.6 - s.rating, 0.0) if s.rating >= 0.0 else 0.0,
        s.bad_90,
        s.bad_at,
        len(c.open_since),
        c.closed_at,
        c.satisfaction if c.satisfaction >= 0 else 1.0,
        c.lost_at > c.last_purchase,
    )


def _trend(c: Customer, mean: float) -> float:
    return _steepness(c.paid_90, c.bought[2], mean)


def _steepness(paid_90: float, bought_90: float, mean: float) -> float:
    if mean <= 0.0 or paid_90 <= 0.0:
        return 0.0
    return min(max(log(paid_90 / bought_90 / mean), -_STEEPEST), _STEEPEST)


class Beside(NamedTuple):
    """What ``columns`` takes of customers from beside their rows; see ``features.layout.Rest``."""

    satisfaction: float = -1.0
    lost_at: int = 0
    last_use: int = 0
    used: decay.Trio = decay.NONE
    signals: Signals = _NO_SIGNALS

    def numbers(self) -> tuple[float, ...]:
        """In the order in which ``columns`` wants them."""
        s = self.signals
        return (
            self.satisfaction if self.satisfaction >= 0 else 1.0,
            self.lost_at,
            self.last_use,
            self.used[1],
            self.used[2],
            s.returns_90,
            s.returned_at,
            s.empty_30,
            s.empty_at,
            s.carts_30,
            s.carted_at,
            max(0.6 - s.rating, 0.0) if s.rating >= 0.0 else 0.0,
            s.bad_90,
            s.bad_at,
        )


def beside(found: Sequence[Beside | None]) -> Floats:
    """One row for each number of ``Beside``; None: nothing is known."""
    columns = np.empty((len(_NEUTRAL), len(found)))
    columns[:] = np.array(_NEUTRAL)[:, None]
    for place, each in enumerate(found):
        if each is not None:
            columns[:, place] = each.numbers()
    return columns


_NEUTRAL: Final = Beside().numbers()


def columns(rows: Any, more: Floats, overdue: Floats) -> Floats:
    """As ``rows`` of customers from their stored rows (``features.layout.ROW``), from ``beside``, and with how many of
    their complaints are overdue. To the last bit what ``facts`` gives: it asks the same logarithm."""
    orders, spend = rows["orders"], rows["spend"].astype(np.float64)
    bought, browsed = rows["bought"], rows["browsed"]
    found = np.empty((_FACTS, len(orders)))
    mean = spend / np.maximum(orders, 1)
    listed = spend + rows["discount"]
    trend = np.zeros(len(orders))
    again = np.flatnonzero(orders > 1)
    if len(again):
        trend[again] = [
            _steepness(*each)
            for each in zip(
                rows["paid_90"][again].tolist(), bought[again, 2].tolist(), mean[again].tolist(), strict=True
            )
        ]
    gaps = rows["last_gap"]
    last_gap = np.zeros(len(orders))
    some = np.flatnonzero(gaps > 0)
    if len(some):
        last_gap[some] = [log(gap) for gap in gaps[some].tolist()]
    satisfaction, lost_at, last_use, used_30, used_90, *signals = more
    last_purchase = rows["last_purchase"].astype(np.float64)
    rating = signals.pop(6)
    for place, column in enumerate(
        (
            last_purchase,
            rows["first_purchase"],
            orders.astype(np.float64) - 1.0,
            rows["gaps"],
            rows["mean"],
            rows["variance"],
            last_gap,
            bought[:, 0],
            bought[:, 1],
            bought[:, 2],
            mean,
            trend,
            rows["discount"] / np.maximum(listed, 1.0),
            rows["abandoned"],
            rows["last_browse"],
            browsed[:, 0],
            browsed[:, 1],
            browsed[:, 2],
            last_use,
            used_30,
            used_90,
            *signals[:6],
            rating,
            *signals[6:],
            rows["open"],
            rows["closed_at"],
            satisfaction,
            lost_at > last_purchase,
            overdue,
        )
    ):
        found[place] = column
    return found


def at_instants(facts: Floats, at: NDArray[np.int64], needed: frozenset[str] = EVERY) -> Inputs:
    """The inputs of the customers of ``rows`` at instants: one of each, or a table with a column for each.

    What changes with time and is not ``needed`` stays as it was when it last grew, which costs nothing.
    """
    (
        last_purchase, first_purchase, repeats, gaps, gap_mean, gap_variance, last_gap, bought_7, bought_30,
        bought_90, order_value, value_trend, discount_share, abandoned, last_browse, browsed_7, browsed_30,
        browsed_90, last_use, used_30, used_90, returns_90, returned_at, empty_30, empty_at, carts_30, carted_at,
        rating, bad_90, bad_at, opened, closed_at, satisfaction, said_lost, overdue,
    ) = facts  # fmt: skip

    def since(instant: Floats) -> Floats:
        days: Floats = np.maximum(at - instant, 0.0) / DAY
        return days

    recency = since(last_purchase)
    browse_recency = since(last_browse) if needed & _OF_BROWSING else last_browse

    def faded(name: str, counter: Floats, silent: Floats | None, per_day: float, instant: Floats) -> Floats:
        """A counter after ``silent`` days (None: those since ``instant``). One that nobody has costs nothing."""
        if name not in needed or not counter.any():
            return counter
        value: Floats = counter * np.exp(-per_day * (since(instant) if silent is None else silent))
        return value

    return Inputs(
        recency=recency,
        age=since(first_purchase),
        repeats=np.maximum(repeats, 0.0),
        gaps=gaps,
        gap_mean=gap_mean,
        gap_variance=gap_variance,
        last_gap=last_gap,
        bought_7=faded("bought_7", bought_7, recency, _PER_DAY_7, last_purchase),
        bought_30=faded("bought_30", bought_30, recency, _PER_DAY_30, last_purchase),
        bought_90=faded("bought_90", bought_90, recency, _PER_DAY_90, last_purchase),
        order_value=order_value,
        value_trend=value_trend,
        discount_share=discount_share,
        returned_90=faded("returned_90", returns_90, None, _PER_DAY_90, returned_at),
        abandoned=abandoned,
        browsed_7=faded("browsed_7", browsed_7, browse_recency, _PER_DAY_7, last_browse),
        browsed_30=faded("browsed_30", browsed_30, browse_recency, _PER_DAY_30, last_browse),
        browsed_90=faded("browsed_90", browsed_90, browse_recency, _PER_DAY_90, last_browse),
        browse_recency=np.where(last_browse > 0, np.minimum(browse_recency, _LONGEST_BROWSE), 0.0),
        empty_searches_30=faded("empty_searches_30", empty_30, None, _PER_DAY_30, empty_at),
        carts_30=faded("carts_30", carts_30, None, _PER_DAY_30, carted_at),
        used_30=faded("used_30", used_30, None, _PER_DAY_30, last_use),
        used_90=faded("used_90", used_90, None, _PER_DAY_90, last_use),
        rating=rating,
        open_complaints=opened,
        overdue_complaints=overdue,
        recent_complaint=((closed_at > 0) & (at - closed_at < RECENT_DAYS * DAY)).astype(np.float64),
        bad_complaints=faded("bad_complaints", bad_90, None, _PER_DAY_90, bad_at),
        satisfaction=satisfaction,
        said_lost=said_lost,
    )


def inputs(customers: Sequence[Customer], at: Sequence[int], overdue_hours: float) -> Inputs:
    """The inputs of each customer at its instant (microseconds). A row of one customer is the same
    whatever stands beside it."""
    return at_instants(rows(customers, at, overdue_hours), np.array(at, dtype=np.int64))
