"""What to offer a customer: a category due, a cart left, a category browsed and not bought."""

from __future__ import annotations

from typing import NamedTuple

from alerts.policy import Policy
from alerts.words import ENGLISH, Words
from features.cold import Cold, Interest, in_cart
from features.customer import Customer
from features.decay import fade
from features.shop import DAY, HOUR
from streams.alerts import OfferType

DUE_EVENTS = 3
"""Purchases of a category after which its own rhythm counts."""
_DUE = (0.9, 1.5)
_OVERDUE = (2.0, 6.0)
VIEWS = 3.0
"""Decayed views of a category after which it may be offered."""
_CART_DAYS = 7
_MOST = 5
_MARGIN = 1_000_000


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


def candidates(
    customer: Customer, cold: Cold, at: int, policy: Policy, words: Words = ENGLISH
) -> list[Candidate]:
    """What is worth offering at ``at``, strongest first; nothing that was offered within
    ``offer_repeat_days``."""
    found: list[Candidate] = []
    offered, repeat = cold.offered, policy.offer_repeat_days * DAY

    def fresh(kind: OfferType, name: str) -> bool:
        return at - offered.get(f"{kind}|{name}", at - repeat - 1) > repeat

    for name, bought in cold.basket.items():
        if bought.events < DUE_EVENTS:
            continue
        gap = bought.gap_days()
        if gap is None or gap < 1.0:
            continue
        passed = (at - bought.last) / DAY
        ratio = passed / gap
        if _DUE[0] <= ratio <= _DUE[1]:
            if fresh("replenish", name):
                text = words.say(
                    "Buys {category} about every {gap}, last {time} ago.",
                    category=_plain(name), gap=_days(words, gap), time=_days(words, passed),
                )  # fmt: skip
                found.append(Candidate("replenish", name, bought.weight, text))
        elif (
            _OVERDUE[0] <= ratio <= _OVERDUE[1]
            and customer.last_purchase > bought.last
            and fresh("category_reactivation", name)
        ):
            text = words.say(
                "Used to buy {category} every {gap}, but not for {time}.",
                category=_plain(name), gap=_days(words, gap), time=_days(words, passed),
            )  # fmt: skip
            found.append(Candidate("category_reactivation", name, bought.weight * 0.5, text))
    for name, item in in_cart(cold, customer.last_purchase).items() if cold.cart else ():
        age = at - item.added
        if policy.cart_hours * HOUR <= age <= _CART_DAYS * DAY and fresh("cart_abandoned", name):
            hours = words.count("{count} hour", "{count} hours", round(age / HOUR))
            text = words.say("Left {item} in the cart {time} ago.", item=_plain(name), time=hours)
            found.append(Candidate("cart_abandoned", name, 3.0, text))
    for name, browsed in cold.browsed.items():
        if browsed.weight < VIEWS:
            continue  # it only fades
        views = browsed.weight * fade(at - browsed.last, 7.0)
        if (
            views >= VIEWS
            and not _bought_since(cold.basket.get(name), browsed)
            and fresh("browse_abandoned", name)
        ):
            often = words.count("{count} time", "{count} times", browsed.events)
            text = words.say(
                "Looked at {category} {times} and did not buy.", category=_plain(name), times=often
            )
            found.append(Candidate("browse_abandoned", name, views * 0.5, text))
    return sorted(found, key=lambda c: (-round(c.strength, 6), c.key))[:_MOST]


def promising(cold: Cold) -> bool:
    """Whether ``candidates`` and ``earliest`` may name anything, at whatever instant, while nothing happens."""
    if cold.cart:
        return True
    if any(browsed.weight >= VIEWS for browsed in cold.browsed.values()):
        return True
    return any(bought.events >= DUE_EVENTS for bought in cold.basket.values())


def earliest(customer: Customer, cold: Cold, after: int, policy: Policy) -> int:
    """The earliest instant from ``after`` on at which ``candidates`` may name something, if nothing happens
    meanwhile; 0 for never. Early by up to a second, never late."""
    found: list[int] = []
    offered, repeat = cold.offered, round(policy.offer_repeat_days * DAY)
    for name, bought in cold.basket.items():
        if bought.events < DUE_EVENTS:
            continue
        gap = (bought.last - bought.first) / (bought.events - 1)
        if gap < DAY * 0.999:
            continue
        windows = [("replenish", _DUE)]
        if customer.last_purchase > bought.last:
            windows.append(("category_reactivation", _OVERDUE))
        for kind, (low, high) in windows:
            begins = max(after, int(bought.last + low * gap) - _MARGIN)
            again = offered.get(f"{kind}|{name}")
            if again is not None:
                begins = max(begins, again + repeat)
            if begins <= bought.last + high * gap + _MARGIN:
                found.append(begins)
                break
    for name, item in in_cart(cold, customer.last_purchase).items() if cold.cart else ():
        again = offered.get(f"cart_abandoned|{name}")
        begins = max(after, round(item.added + policy.cart_hours * HOUR) - _MARGIN)
        if again is not None:
            begins = max(begins, again + repeat)
        if begins <= item.added + _CART_DAYS * DAY + _MARGIN:
            found.append(begins)
    for name, browsed in cold.browsed.items():
        # What it weighs only fades.
        if browsed.weight >= VIEWS and not _bought_since(cold.basket.get(name), browsed):
            again = offered.get(f"browse_abandoned|{name}")
            begins = after if again is None else max(after, again + repeat)
            if browsed.weight * fade(begins - browsed.last, 7.0) >= VIEWS - 1e-6:
                found.append(begins)
    return min(found, default=0)


def _bought_since(bought: Interest | None, browsed: Interest) -> bool:
    return bought is not None and bought.last >= browsed.first


def _days(words: Words, number: float) -> str:
    return words.count("{count} day", "{count} days", round(number))


def _plain(name: str) -> str:
    return name.removeprefix("sku:")
