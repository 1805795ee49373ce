"""Why a customer has the score that they have: groups of evidence, strongest first, each with what is usual.

What a model adds up is grouped (``ChurnModel.groups``). ``_TELLS`` has for each group how its value is read
from the customer and the inputs, what is usual for this customer and in this shop, and the sentence. A model
may leave groups out or bring new ones: what is not in the table is named, and counts all the same.

The last reason, ``base``, is where the score starts, with whatever weighs too little for a sentence, so that
the contributions of an alert always add up to the log-odds of its probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from alerts.words import ENGLISH, Words, message
from features import decay
from features.cold import Case, Cold, stopped
from features.customer import Customer
from features.matrix import Inputs
from features.shop import DAY, HOUR
from features.signals import Signals
from streams.alerts import Reason, ScoreSource

_LEAST: Final = 0.005
"""Log-odds below which a group is not worth a sentence."""
_MONTH: Final = 30.0
_LN2: Final = math.log(2.0)
_LESS: Final = 2.0 / 3.0
"""Below this share of what is usual something has become less."""
_KNOWN_DAYS: Final = 30.0
"""Days after which a customer's pace is one to compare with."""
_HOURS_SHOWN: Final = 72.0
"""A time is told in hours up to here, then in days."""
_STARS: Final = 5.0

BASE: Final = "base"
"""The feature of the last reason: the start of the score."""
GROUP_OF: Final[Mapping[str, str]] = {
    "recency_days": "silence",
    "purchases_30d": "frequency",
    "order_value": "spend",
    "discount_share": "discount",
    "browsing_30d": "browsing",
    "empty_searches_30d": "search",
    "carts_30d": "cart",
    "use_30d": "use",
    "open_complaints": "complaint",
    "days_since_complaint": "complaint",
    "satisfaction": "satisfaction",
    "rating": "satisfaction",
    "returns_90d": "returns",
    "abandoned_share": "category",
    "said_lost": "said_lost",
}
"""The group that each feature of a reason stands for."""


class Evidence(NamedTuple):
    """What a score rests on: a customer (``cold`` included) at an instant (microseconds).

    ``x``: the inputs of this customer alone (of those that change with time only ``recency`` is read); ``groups`` and ``contributions``: what each group added to
    ``base`` (log-odds of churn); ``usual``: what is usual in the shop, by the name of the input, as far as
    the model knows it; ``source``: who scored; ``overdue_hours``: of the policy; ``minor_units``: decimal
    places of money.
    """

    customer: Customer
    cold: Cold
    at: int
    x: Inputs
    groups: Sequence[str]
    contributions: Sequence[float]
    base: float
    usual: Mapping[str, float]
    source: ScoreSource
    overdue_hours: float
    minor_units: int = 2


class _Fact(NamedTuple):
    """One sentence: ``own`` and ``shop`` are what is usual, as numbers and as they are written."""

    feature: str
    text: str
    value: float | None = None
    own: tuple[float, str] | None = None
    shop: tuple[float, str] | None = None


class _Seen:
    """One customer, as the sentences look at it."""

    def __init__(self, evidence: Evidence, words: Words) -> None:
        self.customer = evidence.customer
        self.cold = evidence.cold
        self.at = evidence.at
        self.overdue_hours = evidence.overdue_hours
        self.minor_units = evidence.minor_units
        self.signals = evidence.customer.signals or Signals()
        self.words = words
        self._x = evidence.x
        self._usual = evidence.usual

    def now(self, name: str) -> float:
        """An input of this customer."""
        return float(getattr(self._x, name)[0])

    def usual(
        self, name: str, write: Callable[[float], str], turn: Callable[[float], float] = float
    ) -> tuple[float, str] | None:
        """What is usual in the shop, where the model knows it."""
        known = self._usual.get(name)
        return None if known is None else _shown(turn(known), write)

    def one_decimal(self, value: float) -> str:
        return self.words.number(value, 1)

    def unit(self, minor: float) -> float:
        """An amount in units of the base currency."""
        return float(minor) / 10.0**self.minor_units

    def money(self, value: float) -> str:
        return self.words.number(value, self.minor_units)

    def days(self, number: float) -> str:
        return self.words.count("{count} day", "{count} days", number)

    def ago(self, since: int) -> str:
        """How long something has lasted."""
        hours = max(self.at - since, 0) / HOUR
        if hours < _HOURS_SHOWN:
            return self.words.count("{count} hour", "{count} hours", round(hours))
        return self.days(round(hours / 24.0))

    def paces(
        self, counters: decay.Trio, last: int, events: int, since: int
    ) -> tuple[float, tuple[float, str] | None]:
        """Events in 30 days: at the recent pace, and at that of the last months where it can be told.

        A counter that halves in h days stands at r h / ln 2 where r events come a day, less where they
        began (``since``) T days ago only: r h / ln 2 (1 - 2^(-T / h)).
        """
        known = max(self.at - since, 0) / DAY
        if known <= _KNOWN_DAYS:
            return float(events), None
        _, month, quarter = decay.value(counters, last, self.at)
        recent, own = _pace(month, 30.0, known), _pace(quarter, 90.0, known)
        return recent, _shown(own, self.one_decimal) if events > 1 else None


def _pace(counter: float, half_life: float, known_days: float) -> float:
    """Events in 30 days from a decayed counter."""
    return counter * _LN2 * _MONTH / half_life / (1.0 - math.exp(-_LN2 * known_days / half_life))


def _monthly(counter: float) -> float:
    """Events in 30 days from a counter that halves in 30 days."""
    return counter * _LN2


def _shown(value: float, write: Callable[[float], str]) -> tuple[float, str]:
    return value, write(value)


# ---- the table


def _silence(seen: _Seen) -> _Fact:
    days = seen.now("recency")
    text = (
        seen.words.say("No purchase for {days}.", days=seen.days(round(days)))
        if days >= 1.0
        else seen.words.say("Bought less than a day ago.")
    )
    own = _shown(math.exp(seen.now("gap_mean")), seen.days) if seen.now("gaps") >= 1.0 else None
    return _Fact("recency_days", text, days, own, seen.usual("gap_mean", seen.days, math.exp))


def _frequency(seen: _Seen) -> _Fact:
    customer = seen.customer
    pace, own = seen.paces(customer.bought, customer.last_purchase, customer.orders, customer.first_purchase)
    told = seen.words.count("{count} purchase", "{count} purchases", pace)
    if own is not None and pace < _LESS * own[0]:
        text = seen.words.say(
            "Buys less often than before: at the recent pace {purchases} in 30 days.", purchases=told
        )
    else:
        text = seen.words.say("At the recent pace {purchases} in 30 days.", purchases=told)
    return _Fact("purchases_30d", text, pace, own, seen.usual("bought_30", seen.one_decimal, _monthly))


def _spend(seen: _Seen) -> _Fact:
    mean = seen.unit(seen.now("order_value"))
    shop = seen.usual("order_value", seen.money, seen.unit)
    if seen.customer.orders < 2:
        return _Fact(
            "order_value", seen.words.say("The order was worth {amount}.", amount=seen.money(mean)), mean, None, shop
        )  # fmt: skip
    value = mean * math.exp(seen.now("value_trend"))
    sentence = (
        message("Spends less per order than before: lately {amount} on average.")
        if value < 0.8 * mean
        else message("An order is lately worth {amount} on average.")
    )
    text = seen.words.say(sentence, amount=seen.money(value))
    return _Fact("order_value", text, value, _shown(mean, seen.money), shop)


def _discount(seen: _Seen) -> _Fact:
    share = seen.now("discount_share")
    if share >= 0.3:
        text = seen.words.say(
            "Buys mostly at a discount: {share} below list price on average.", share=seen.words.percent(share)
        )
    elif share >= 0.005:
        text = seen.words.say(
            "Paid {share} less than list price on average.", share=seen.words.percent(share)
        )
    else:
        text = seen.words.say("No discount so far.")
    return _Fact("discount_share", text, share, None, seen.usual("discount_share", seen.words.percent))


def _browsing(seen: _Seen) -> _Fact:
    customer = seen.customer
    shop = seen.usual("browsed_30", seen.one_decimal, _monthly)
    if not customer.views + customer.searches:
        return _Fact("browsing_30d", seen.words.say("No browsing has been seen."), 0.0, None, shop)
    pace, own = seen.paces(
        customer.browsed, customer.last_browse, customer.views + customer.searches, customer.first_seen
    )
    told = seen.words.count("{count} view or search", "{count} views and searches", pace)
    if own is not None and pace < _LESS * own[0]:
        sentence = message("Browses less than before: at the recent pace {browses} in 30 days.")
    elif customer.last_browse > customer.last_purchase and seen.now("recency") >= _MONTH and pace >= 1.0:
        sentence = message("Browses without buying: at the recent pace {browses} in 30 days.")
    else:
        sentence = message("At the recent pace {browses} in 30 days.")
    return _Fact("browsing_30d", seen.words.say(sentence, browses=told), pace, own, shop)


def _search(seen: _Seen) -> _Fact:
    signals = seen.signals
    pace = _monthly(signals.empty_30 * decay.fade(seen.at - signals.empty_at, 30.0))
    if pace >= 0.05:
        told = seen.words.count("{count} search", "{count} searches", pace)
        text = seen.words.say(
            "Searches without a result: at the recent pace {searches} in 30 days.", searches=told
        )
    else:
        text = seen.words.say("No search without a result lately.")
    return _Fact(
        "empty_searches_30d", text, pace, None, seen.usual("empty_searches_30", seen.one_decimal, _monthly)
    )


def _cart(seen: _Seen) -> _Fact:
    signals = seen.signals
    pace = _monthly(signals.carts_30 * decay.fade(seen.at - signals.carted_at, 30.0))
    if pace >= 0.05:
        told = seen.words.count("{count} item", "{count} items", pace)
        text = seen.words.say("Into the cart: at the recent pace {items} in 30 days.", items=told)
    else:
        text = seen.words.say("Nothing has been put into the cart lately.")
    return _Fact("carts_30d", text, pace, None, seen.usual("carts_30", seen.one_decimal, _monthly))


def _use(seen: _Seen) -> _Fact:
    shop = seen.usual("used_30", seen.one_decimal, _monthly)
    customer = seen.customer
    if not customer.uses:
        return _Fact("use_30d", seen.words.say("No use has been seen."), 0.0, None, shop)
    pace, own = seen.paces(customer.used, customer.last_use, customer.uses, customer.first_seen)
    told = seen.words.count("{count} use", "{count} uses", pace)
    sentence = (
        message("Uses it less than before: at the recent pace {uses} in 30 days.")
        if own is not None and pace < _LESS * own[0]
        else message("At the recent pace {uses} in 30 days.")
    )
    return _Fact("use_30d", seen.words.say(sentence, uses=told), pace, own, shop)


def _complaint(seen: _Seen) -> _Fact:
    shop = seen.usual("open_complaints", seen.one_decimal)
    case = weightiest(seen.cold.complaints)
    if case is None:
        return _Fact("open_complaints", seen.words.say("No complaint is known."), 0.0, None, shop)
    about = _about(seen, case.kind)
    if case.open:
        opened = float(len(seen.customer.open_since))
        late = seen.at - case.opened >= seen.overdue_hours * HOUR
        if not late and case.status != "reopened" and seen.at - case.opened < HOUR:
            sentence = message("A complaint about {subject} has just been made.")
        elif case.status == "reopened":
            sentence = message("A complaint about {subject} has been open for {time}, and was reopened.")
        elif late:
            sentence = message("A complaint about {subject} has been open for {time} and is overdue.")
        else:
            sentence = message("A complaint about {subject} has been open for {time}.")
        text = seen.words.say(sentence, subject=about, time=seen.ago(case.opened))
        return _Fact("open_complaints", text, opened, None, shop or (0.0, ""))
    if case.status == "resolved":
        sentence = message("A complaint about {subject} was resolved {time} ago ({day}).")
    elif case.status_at == seen.signals.bad_at:
        sentence = message("A complaint about {subject} was closed {time} ago ({day}) without a solution.")
    else:
        sentence = message("A complaint about {subject} was closed {time} ago ({day}).")
    text = seen.words.say(
        sentence, subject=about, time=seen.ago(case.status_at), day=seen.words.day(case.status_at)
    )
    return _Fact("days_since_complaint", text, max(seen.at - case.status_at, 0) / DAY)


def _about(seen: _Seen, kind: str) -> str:
    say = seen.words.say
    if kind == "product":
        return say("a product")
    if kind == "service":
        return say("the service")
    if kind == "price":
        return say("the price")
    if kind == "delivery":
        return say("the delivery")
    return say("another matter")


def _satisfaction(seen: _Seen) -> _Fact:
    if seen.customer.satisfaction < 0.0 <= seen.signals.rating:
        stars = seen.signals.rating * _STARS
        text = seen.words.say(
            "The newest review gave {rating} of {best} stars.",
            rating=seen.words.number(stars, 0),
            best=seen.words.number(_STARS, 0),
        )
        return _Fact("rating", text, stars)
    share = seen.now("satisfaction")
    # Who has never been asked counts as content: where that is usual, there is nothing to compare with.
    asked = seen.usual("satisfaction", seen.words.percent)
    shop = asked if asked is not None and asked[0] < 1.0 else None
    if seen.customer.satisfaction < 0.0:
        return _Fact(
            "satisfaction", seen.words.say("No survey answer and no review so far."), None, None, shop
        )
    text = seen.words.say("The last survey answer was {share} of its scale.", share=seen.words.percent(share))
    return _Fact("satisfaction", text, share, None, shop)


def _returns(seen: _Seen) -> _Fact:
    def quarterly(counter: float) -> float:
        return counter * _LN2

    signals = seen.signals
    pace = quarterly(signals.returns_90 * decay.fade(seen.at - signals.returned_at, 90.0))
    shop = seen.usual("returned_90", seen.one_decimal, quarterly)
    if not seen.customer.returns:
        return _Fact("returns_90d", seen.words.say("Nothing has been returned."), 0.0, None, shop)
    text = seen.words.say(
        "Goods were returned: at the recent pace {returns} in 90 days.",
        returns=seen.words.count("{count} return", "{count} returns", pace),
    )
    return _Fact("returns_90d", text, pace, None, shop)


def _category(seen: _Seen) -> _Fact:
    share = seen.now("abandoned")
    shop = seen.usual("abandoned", seen.words.percent)
    names = stopped(seen.cold.basket, seen.customer.last_purchase)
    if not names:
        return _Fact("abandoned_share", seen.words.say("No category has been given up."), share, None, shop)
    if len(names) == 1:
        text = seen.words.say(
            "No longer buys {category}, {share} of earlier purchases; other purchases went on.",
            category=names[0],
            share=seen.words.percent(share),
        )
    else:
        others = seen.words.count("{count} more category", "{count} more categories", len(names) - 1)
        text = seen.words.say(
            "No longer buys {category} and {others}, {share} of earlier purchases; other purchases went on.",
            category=names[0],
            others=others,
            share=seen.words.percent(share),
        )
    return _Fact("abandoned_share", text, share, None, shop)


def _said_lost(seen: _Seen) -> _Fact:
    said = seen.now("said_lost")
    if not said:
        return _Fact("said_lost", seen.words.say("The customer has not said that they are leaving."), 0.0)
    sentence = (
        message("The customer said on {day} that they are leaving for a competitor.")
        if seen.signals.competitor_at > seen.customer.last_purchase
        else message("The customer said on {day} that they are leaving.")
    )
    text = seen.words.say(sentence, day=seen.words.day(seen.customer.lost_at))
    return _Fact("said_lost", text, said, None, (0.0, ""))


_TELLS: Final[Mapping[str, Callable[[_Seen], _Fact]]] = {
    "silence": _silence,
    "frequency": _frequency,
    "spend": _spend,
    "discount": _discount,
    "browsing": _browsing,
    "search": _search,
    "cart": _cart,
    "use": _use,
    "complaint": _complaint,
    "satisfaction": _satisfaction,
    "returns": _returns,
    "category": _category,
    "said_lost": _said_lost,
}


# ---- all of them


def reasons(evidence: Evidence, words: Words = ENGLISH) -> tuple[Reason, ...]:
    """One reason for each group that weighs at least 0.005 log-odds, the strongest first, and ``base`` at the end.

    Their contributions, rounded to 1e-6, add up to the log-odds that ``evidence`` adds up to.
    """
    return tuple(_told(evidence, words))


def _told(evidence: Evidence, words: Words) -> Iterator[Reason]:
    seen = _Seen(evidence, words)
    found: list[tuple[float, _Fact]] = []
    rest = evidence.base
    for group, weight in zip(evidence.groups, evidence.contributions, strict=True):
        if abs(weight) < _LEAST:
            rest += weight
            continue
        tell = _TELLS.get(group)
        fact = _Fact(group, words.say("Other signs: {name}.", name=group)) if tell is None else tell(seen)
        shown = round(weight, 6)
        rest += weight - shown
        found.append((shown, fact))
    for weight, fact in sorted(found, key=lambda each: (-abs(each[0]), each[1].feature)):
        usual = fact.own or fact.shop
        yield _reason(fact.feature, fact.value, usual and usual[0], weight, _with_usual(fact, words))
    yield _start(evidence.source, round(rest, 6), words)


def _with_usual(fact: _Fact, words: Words) -> str:
    """The sentence, with what is usual where it is known."""
    own = fact.own[1] if fact.own else ""
    shop = fact.shop[1] if fact.shop else ""
    if own and shop:
        usual = words.say("Usual: {own} for this customer, {shop} in this shop.", own=own, shop=shop)
    elif own:
        usual = words.say("Usual for this customer: {own}.", own=own)
    elif shop:
        usual = words.say("Usual in this shop: {shop}.", shop=shop)
    else:
        return fact.text
    return words.say("{fact} {usual}", fact=fact.text, usual=usual)


def _start(source: ScoreSource, weight: float, words: Words) -> Reason:
    """Where the score starts: a model that has learned compares with the shop, the other with the moment after
    the last purchase."""
    share = 1.0 / (1.0 + math.exp(-max(min(weight, 700.0), -700.0)))
    sentence = (
        message("Starting point: {share}, usual in this shop right after a purchase.")
        if source == "learned"
        else message("Starting point: {share}, the risk right after the last purchase.")
    )
    text = words.say(sentence, share=words.percent(share))
    return _reason(BASE, share, None, weight, text)


def _reason(feature: str, value: float | None, usual: float | None, contribution: float, text: str) -> Reason:
    return Reason(
        feature=feature,
        value=None if value is None else round(value, 6),
        usual=None if usual is None else round(usual, 6),
        contribution=contribution,
        text=text,
    )


def weightiest(complaints: Mapping[str, Case]) -> Case | None:
    """The complaint that matters most: reopened before open before ended; of open ones the one
    that has waited longest, of others the newest; of two alike the lesser kind."""
    known = [case for case in complaints.values() if case.opened]

    def rank(case: Case) -> tuple[int, int, str, int, int, str]:
        place = 2 if not case.open else 0 if case.status == "reopened" else 1
        first = case.opened if case.open else -case.status_at
        return place, first, case.kind, case.opened, case.status_at, case.status

    return min(known, key=rank, default=None)
