"""The cold part of a customer: loaded only when an event or a decision touches it.

Every map is bounded. What is dropped is chosen by the map's own content (lowest decayed weight,
then the greater name), so within the bounds no order of arrival makes a difference.
"""

from __future__ import annotations

from math import log2
from typing import TypeVar

import msgspec

from features.decay import fade
from features.ledger import Pending
from features.shop import DAY

K = TypeVar("K", str, int)

CATEGORIES = 16
BROWSED = 8
CASES = 16
CART = 16
COUNTED = 8
OFFERED = 64
BASKET_HALF_LIFE = 90.0
HABIT = 3
"""Purchases of a category that make a habit."""
_PAUSE_DAYS = 14.0
BROWSE_HALF_LIFE = 7.0

CLOSED = frozenset({"resolved", "closed"})
_STATUS_ORDER = ("answered", "reopened", "resolved", "closed")


class Interest(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A category bought or browsed: events, first and last instant, decayed weight at ``last``."""

    events: int
    first: int
    last: int
    weight: float

    def add(self, at: int, half_life: float) -> Interest:
        """With one more event at ``at``, in any order."""
        if at >= self.last:
            return Interest(
                self.events + 1, self.first, at, self.weight * fade(at - self.last, half_life) + 1.0
            )
        return Interest(
            self.events + 1,
            min(self.first, at),
            self.last,
            self.weight + fade(self.last - at, half_life),
        )

    def rank(self, half_life: float) -> float:
        """The decayed weight as its logarithm, in half-lives since the epoch: the same order at every
        instant. Rounded, so that of two that weigh the same no order of arrival decides."""
        return round(log2(self.weight) + self.last / (half_life * DAY), 6)

    def gap_days(self) -> float | None:
        """Mean days between events, None below two."""
        if self.events < 2 or self.last == self.first:
            return None
        return (self.last - self.first) / DAY / (self.events - 1)


class Case(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A complaint or inquiry: instant opened (0: only an update is known so far), kind, the newest
    status with its instant ("" while there is none)."""

    opened: int
    kind: str = ""
    status: str = ""
    status_at: int = 0

    @property
    def open(self) -> bool:
        """Opened, and not resolved or closed since."""
        return self.opened > 0 and self.status not in CLOSED

    def begun(self, kind: str, at: int) -> Case:
        """With an opening at ``at``: of several the earliest holds, of two at one instant the lesser kind."""
        if self.opened and (self.opened, self.kind) <= (at, kind):
            return self
        return Case(at, kind, self.status, self.status_at)

    def updated(self, status: str, at: int) -> Case:
        """With the status of ``at``, unless a newer one is known; of two at one instant the later
        stage holds."""
        rank = _STATUS_ORDER.index(status)
        known = _STATUS_ORDER.index(self.status) if self.status else -1
        if (at, rank) <= (self.status_at, known):
            return self
        return Case(self.opened, self.kind, status, at)


class CartItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Newest instants at which an item was put in and taken out of the cart, and what it was worth
    (minor units) when it was put in. It is in the cart while ``added`` is after ``removed`` and after
    the last purchase."""

    added: int = 0
    removed: int = 0
    amount: int = 0


class Tier(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the newest profile of an input topic says: its instant, and the customer's tier ("": none)."""

    at: int
    name: str = ""


class Cold(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``basket`` and ``browsed``: interest by category (by ``sku:…`` where a line has none);
    ``complaints`` and ``inquiries`` by their ids; ``cart`` by sku or category; counts of purchases by
    channel, weekday (Monday 0), hour, region and store; ``offered``: newest instant of each offer;
    ``pending``: snapshots whose label has not matured; ``tiers``: by the index of the input topic that
    told it (see ``profiled``)."""

    basket: dict[str, Interest] = {}
    browsed: dict[str, Interest] = {}
    complaints: dict[str, Case] = {}
    inquiries: dict[str, Case] = {}
    cart: dict[str, CartItem] = {}
    channels: dict[str, int] = {}
    weekdays: dict[int, int] = {}
    hours: dict[int, int] = {}
    regions: dict[str, int] = {}
    stores: dict[str, int] = {}
    offered: dict[str, int] = {}
    pending: tuple[Pending, ...] = ()
    tiers: dict[int, Tier] = {}


def interested(
    known: dict[str, Interest], names: list[str], at: int, half_life: float, bound: int
) -> dict[str, Interest]:
    """The map with one event at ``at`` for each of ``names``, cut to ``bound`` by decayed weight."""
    result = dict(known)
    for name in names:
        interest = result.get(name)
        result[name] = Interest(1, at, at, 1.0) if interest is None else interest.add(at, half_life)
    if len(result) > bound:
        ranked = sorted(result, key=lambda name: (-result[name].rank(half_life), name))
        result = {name: result[name] for name in ranked[:bound]}
    return result


def stopped(basket: dict[str, Interest], last_purchase: int) -> list[str]:
    """The categories that stopped while others went on, the weightiest first: bought at least three times, and by
    the last purchase not for twice their usual gap, nor for two weeks."""
    found: list[tuple[float, str]] = []
    for name, interest in basket.items():
        gap = interest.gap_days()
        if name.startswith("sku:") or gap is None or interest.events < HABIT:
            continue
        if (last_purchase - interest.last) / DAY > max(2.0 * gap, _PAUSE_DAYS):
            found.append((-round(interest.weight, 6), name))
    return [name for _, name in sorted(found)]


def abandoned(basket: dict[str, Interest], last_purchase: int) -> float:
    """The share of the categories' weight that lies in those which stopped while others went on (``stopped``).
    Each category weighs what it did when it was last bought. 0 where nothing has a category."""
    gone = frozenset(stopped(basket, last_purchase))
    total = lost = 0.0
    for name, interest in sorted(basket.items()):
        if not name.startswith("sku:"):
            total += interest.weight
            lost += interest.weight if name in gone else 0.0
    return lost / total if total else 0.0


def counted(known: dict[K, int], name: K) -> dict[K, int]:
    """The counts with one more for ``name``, cut to ``COUNTED`` names for text keys."""
    result = dict(known)
    result[name] = result.get(name, 0) + 1
    if len(result) > COUNTED and isinstance(name, str):
        for drop in sorted(result, key=lambda key: (-result[key], key))[COUNTED:]:
            del result[drop]
    return result


def most(counts: dict[str, int] | dict[int, int]) -> str | int | None:
    """The key counted most often; the smallest of several; None of nothing."""
    if not counts:
        return None
    best = max(counts.values())
    return min(key for key, count in counts.items() if count == best)


def bounded_cases(cases: dict[str, Case]) -> dict[str, Case]:
    """The cases cut to ``CASES``: closed ones go first, then the oldest."""
    if len(cases) <= CASES:
        return cases
    ranked = sorted(
        cases,
        key=lambda name: (not cases[name].open, -max(cases[name].opened, cases[name].status_at), name),
    )
    return {name: cases[name] for name in ranked[:CASES]}


def bounded_offers(offered: dict[str, int]) -> dict[str, int]:
    """The newest ``OFFERED`` offers."""
    if len(offered) <= OFFERED:
        return offered
    return {
        name: offered[name] for name in sorted(offered, key=lambda name: (-offered[name], name))[:OFFERED]
    }


def profiled(cold: Cold, tier: str | None, at: int, topic: int) -> Cold:
    """The cold part after a profile of ``at``, which replaces an older one whole; of two at one instant the greater
    tier holds, and any before none.

    What each topic told is kept apart: a tombstone has no instant to be compared by, only its place in its own topic,
    and takes away what lies before it there. So it makes no difference how topics are read side by side, and nothing
    needs to be remembered of a tombstone."""
    told = Tier(at, tier or "")
    known = cold.tiers.get(topic)
    if known is not None and (known.at, known.name) >= (told.at, told.name):
        return cold
    return msgspec.structs.replace(cold, tiers={**cold.tiers, topic: told})


def unprofiled(cold: Cold, topic: int) -> Cold:
    """The cold part after a tombstone on a topic."""
    if topic not in cold.tiers:
        return cold
    return msgspec.structs.replace(
        cold, tiers={each: tier for each, tier in cold.tiers.items() if each != topic}
    )


def tier(cold: Cold) -> str | None:
    """The tier by the newest profile of all topics; None if it names none, or there is none."""
    newest = max(((told.at, told.name) for told in cold.tiers.values()), default=(0, ""))
    return newest[1] or None


def in_cart(cold: Cold, last_purchase: int) -> dict[str, CartItem]:
    """What lies in the cart: put in after it was last taken out and after the last purchase."""
    return {
        name: item
        for name, item in cold.cart.items()
        if item.added > item.removed and item.added > last_purchase
    }


def bounded_cart(cart: dict[str, CartItem], last_purchase: int) -> dict[str, CartItem]:
    """The cart without what a purchase has settled, cut to the newest ``CART`` items."""
    kept = {name: item for name, item in cart.items() if max(item.added, item.removed) > last_purchase}
    if len(kept) > CART:
        ranked = sorted(kept, key=lambda name: (-max(kept[name].added, kept[name].removed), name))
        kept = {name: kept[name] for name in ranked[:CART]}
    return kept
