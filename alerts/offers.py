"""What to offer a customer: a category due, a cart left, a category browsed and not bought."""

from __future__ import annotations

from typing import NamedTuple

from alerts.policy import Policy
from features.cold import Cold, Interest, in_cart
from features.customer import Customer
from features.decay import fade
from features.shop import DAY, HOUR
from streams.alerts import OfferType

_DUE_EVENTS = 3
"""Purchases of a category after which its own rhythm counts."""
_DUE = (0.9, 1.5)
_OVERDUE = (2.0, 6.0)
_VIEWS = 3.0
_CART_DAYS = 7
_MOST = 5


class Candidate(NamedTuple):
    """One offer: its contract type, the category or SKU, what makes it due, and the sentence."""

    type: OfferType
    name: str
    strength: float
    text: str

    @property
    def key(self) -> str:
        """What identifies it among the offers already made."""
        return f"{self.type}|{self.name}"


def candidates(customer: Customer, cold: Cold, at: int, policy: Policy) -> list[Candidate]:
    """What is worth offering at ``at``, strongest first; nothing that was offered within
    ``offer_repeat_days``."""
    found: list[Candidate] = []
    for name, bought in cold.basket.items():
        gap = bought.gap_days()
        if gap is None or bought.events < _DUE_EVENTS or gap < 1.0:
            continue
        passed = (at - bought.last) / DAY
        ratio = passed / gap
        if _DUE[0] <= ratio <= _DUE[1]:
            text = f"Buys {_plain(name)} about every {gap:.0f} days, last {passed:.0f} days ago."
            found.append(Candidate("replenish", name, bought.weight, text))
        elif _OVERDUE[0] <= ratio <= _OVERDUE[1] and customer.last_purchase > bought.last:
            text = f"Used to buy {_plain(name)} every {gap:.0f} days, but not for {passed:.0f} days."
            found.append(Candidate("category_reactivation", name, bought.weight * 0.5, text))
    for name, item in in_cart(cold, customer.last_purchase).items():
        age = at - item.added
        if policy.cart_hours * HOUR <= age <= _CART_DAYS * DAY:
            text = f"Left {_plain(name)} in the cart {age / HOUR:.0f} hours ago."
            found.append(Candidate("cart_abandoned", name, 3.0, text))
    for name, browsed in cold.browsed.items():
        views = browsed.weight * fade(at - browsed.last, 7.0)
        if views >= _VIEWS and not _bought_since(cold.basket.get(name), browsed):
            text = f"Looked at {_plain(name)} {browsed.events} times and did not buy."
            found.append(Candidate("browse_abandoned", name, views * 0.5, text))
    repeat = policy.offer_repeat_days * DAY
    fresh = [c for c in found if at - cold.offered.get(c.key, at - repeat - 1) > repeat]
    return sorted(fresh, key=lambda c: (-round(c.strength, 6), c.key))[:_MOST]


def _bought_since(bought: Interest | None, browsed: Interest) -> bool:
    return bought is not None and bought.last >= browsed.first


def _plain(name: str) -> str:
    return name.removeprefix("sku:")
