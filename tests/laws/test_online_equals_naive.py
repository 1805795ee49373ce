"""What a customer's record says equals a plain recomputation from everything that was read, whatever the
order of arrival that the topics allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.simulator import simulate
from features.cold import BROWSED, CART, CASES, CATEGORIES, COUNTED, Cold
from features.customer import (
    EMPTY_COLD,
    REMEMBERED,
    Customer,
    apply,
    pack_cold,
    pack_hot,
    unpack_cold,
    unpack_hot,
)
from features.rhythm import WINDOW
from features.shop import DAY, HOUR, Calendar, Shop
from streams import events as ev
from streams.codec import Codec, Decoded, encode
from streams.topics import CUSTOMERS, INPUTS, TOPIC_OF
from tests.observed import differences, observed
from tests.oracle import Read, recompute

START = 1_767_225_600_000_000  # 2026-01-01
MINUTE = HOUR // 60
CALENDARS = {zone: Calendar(Shop(time_zone=zone)) for zone in ("UTC", "America/New_York", "Asia/Kolkata")}
CODEC = Codec("USD", 2, {"EUR": 1.1}, frozenset({CUSTOMERS}))


class Sent(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def read(topic: str, offset: int, event: ev.Event) -> Read:
    """The event after its way through Kafka."""
    at = ev.to_micros(event.time)
    sent = Sent(topic, 0, offset, at // 1000 + 1, event.customer.encode(), encode(event))
    item = CODEC.decode(sent)
    assert isinstance(item, Decoded), item
    return Read(topic, offset, item)


class State(NamedTuple):
    """A customer's record as it stands after some events."""

    hot: bytes | None = None
    cold: bytes | None = None

    def parts(self) -> tuple[Customer, Cold]:
        return unpack_hot(self.hot), unpack_cold(self.cold)

    def after(self, records: Sequence[Read], calendar: Calendar = CALENDARS["UTC"], stored: int = 1) -> State:
        """Applies the records; after every ``stored`` of them the record is packed and unpacked again."""
        customer, cold = self.parts()
        for number, record in enumerate(records, 1):
            topic = INPUTS.index(record.topic)
            customer, cold, *_ = apply(customer, cold, record.item, topic, calendar)
            if number % stored == 0:
                customer, cold = unpack_hot(pack_hot(customer)), unpack_cold(pack_cold(cold))
        return State(pack_hot(customer), pack_cold(cold))

    def observed(self, at: int) -> dict[str, object]:
        return observed(*self.parts(), at)


# Histories ------------------------------------------------------------------------------------------

Make = Callable[[Random, dict[str, Any], int], ev.Event]


def _name(random: Random, kind: str, variety: int) -> str | None:
    number = random.randrange(variety + 1)
    return None if number == variety else f"{kind}{number}"


def _lines(random: Random, variety: int) -> tuple[ev.Line, ...]:
    return tuple(
        ev.Line(
            amount=random.choice((0.0, 0.004, 0.005, 9.99, 120.0)),
            sku=_name(random, "s", variety),
            category=_name(random, "k", variety),
            quantity=random.choice((None, 1.0, 3.0)),
            list_price=random.choice((None, None, 12.5)),
            discount=random.choice((None, None, 2.0)),
        )
        for _ in range(random.choice((1, 1, 2, 4)))
    )


def _purchase(random: Random, common: dict[str, Any], variety: int) -> ev.Event:
    return ev.Purchase(
        **common,
        lines=_lines(random, variety),
        order=_name(random, "o", 60),
        channel=_name(random, "c", variety),
        region=_name(random, "r", variety),
        store=_name(random, "st", variety),
        currency=random.choice((None, "USD", "EUR")),
    )


def _case(random: Random) -> str:
    return f"x{random.randrange(random.choice((2, 24)))}"


MAKERS: dict[str, Make] = {
    "purchase": _purchase,
    "return": lambda r, c, v: ev.Return(**c, lines=_lines(r, v)),
    "view": lambda r, c, v: ev.View(**c, sku=_name(r, "s", v), category=_name(r, "k", v)),
    "search": lambda r, c, v: ev.Search(**c, results=r.choice((None, 0, 3))),
    "cart": lambda r, c, v: ev.Cart(
        **c,
        action=r.choice(("add", "add", "remove")),
        sku=_name(r, "s", v),
        category=_name(r, "k", v),
        amount=r.choice((None, 5.0, 7.5)),
    ),
    "checkout": lambda r, c, v: ev.Checkout(**c, amount=10.0),
    "review": lambda r, c, v: ev.Review(**c, rating=r.choice((1.0, 2.5, 4.0))),
    "use": lambda r, c, v: ev.Use(**c, duration=60.0),
    "complaint": lambda r, c, v: ev.Complaint(**c, complaint=_case(r), kind=r.choice(("product", "price"))),
    "complaint_update": lambda r, c, v: ev.ComplaintUpdate(
        **c,
        complaint=_case(r),
        status=r.choice(("answered", "resolved", "reopened", "closed")),
        resolution=r.choice((None, "refunded")),
    ),
    "inquiry": lambda r, c, v: ev.Inquiry(**c, inquiry=_case(r), topic=_name(r, "t", 2)),
    "inquiry_update": lambda r, c, v: ev.InquiryUpdate(
        **c, inquiry=_case(r), status=r.choice(("answered", "resolved", "reopened", "closed"))
    ),
    "survey": lambda r, c, v: ev.Survey(**c, score=float(r.randrange(6)), scale=r.choice((5.0, 10.0))),
    "customer_lost": lambda r, c, v: ev.CustomerLost(**c),
    "referral": lambda r, c, v: ev.Referral(**c),
    "profile": lambda r, c, v: ev.Profile(**c, tier=r.choice((None, "silver", "gold"))),
    "contact": lambda r, c, v: ev.Contact(**c),
    "alert_feedback": lambda r, c, v: ev.AlertFeedback(**c, alert="a", action="dismissed"),
}


class Shape(NamedTuple):
    """How a history looks and arrives. Hypothesis chooses it and simplifies it; chance fills in the rest.

    ``only``: the types in it, all when empty; ``variety``: different names of a kind; ``step``: what
    passes between two events, 0 to twice as much; ``jitter``: how far in-topic order may differ from
    time; ``resent``: share of records sent again, up to ``behind`` records later; ``topics``: one, each
    type on its own, or any; ``lags``: how much later than the others a topic is read.
    """

    seed: int
    events: int
    only: tuple[str, ...]
    variety: int
    step: int
    jitter: int
    resent: float
    behind: int
    topics: str
    lags: tuple[int, ...]

    def event(self, random: Random, number: int, at: int) -> ev.Event:
        common = {"id": f"e{number}", "customer": "c", "time": ev.to_datetime(at)}
        kind = random.choice(self.only or tuple(MAKERS))
        return MAKERS[kind](random, common, self.variety)

    def topic(self, random: Random, event: ev.Event) -> str:
        if self.topics == "one":
            return INPUTS[0]
        if self.topics == "any":
            return random.choice(INPUTS[:4])
        return TOPIC_OF[ev.type_name(event)]

    def logs(self) -> dict[str, list[ev.Event]]:
        """What lies in each topic, in the order of offsets."""
        random = Random(self.seed)
        at, sent = START, []
        for number in range(self.events):
            at += random.choice(
                (0, 1, random.randrange(2 * self.step + 1), random.randrange(2 * self.step + 1))
            )
            if random.random() < 0.1:
                at += random.randrange(0, 40) * DAY  # whole days: the hour of the day stays
            event = self.event(random, number, at)
            sent.append((at + random.randrange(self.jitter + 1), number, self.topic(random, event), event))
        logs: dict[str, list[ev.Event]] = {}
        for _, _, topic, event in sorted(sent, key=lambda each: each[:2]):
            logs.setdefault(topic, []).append(event)
        for log in logs.values():
            for place in sorted((p for p in range(len(log)) if random.random() < self.resent), reverse=True):
                log.insert(place + 1 + random.randrange(self.behind), log[place])
        return logs

    def arrival(self, order: int = 0) -> list[Read]:
        """The records in one of the orders in which they may be read."""
        random = Random(f"{self.seed} {order}")
        waiting = [
            (lag, [read(topic, offset, event) for offset, event in enumerate(log)])
            for lag, (topic, log) in zip(
                (*self.lags, 0, 0, 0, 0, 0), sorted(self.logs().items()), strict=False
            )
        ]
        arrived = []
        while waiting := [(lag, log) for lag, log in waiting if log]:
            # Whoever lags is read when the others have come so far; ties and near ties are chance.
            chosen = min(
                waiting, key=lambda each: each[1][0].item.at + each[0] + random.randrange(self.step + 1)
            )
            arrived.append(chosen[1].pop(0))
        return arrived


TOGETHER = (
    ("purchase",),
    ("purchase", "return", "survey", "customer_lost"),
    ("purchase", "cart"),
    ("cart",),
    ("view", "search", "use", "review"),
    ("complaint", "complaint_update"),
    ("inquiry", "inquiry_update"),
    ("profile",),
    (),
)
"""What is combined or forgotten together, which a history of everything seldom reaches; and everything."""


def shapes(*only: tuple[str, ...]) -> st.SearchStrategy[Shape]:
    return st.builds(
        Shape,
        seed=st.integers(0, 2**32),
        events=st.one_of(st.integers(0, 12), st.integers(0, 60), st.integers(60, 160)),
        only=st.sampled_from(only or TOGETHER),
        variety=st.sampled_from((1, 3, 7, 30)),
        step=st.sampled_from((0, MINUTE, 7 * HOUR, DAY, 9 * DAY)),
        jitter=st.sampled_from((0, HOUR, 3 * DAY, 60 * DAY)),
        resent=st.sampled_from((0.0, 0.1, 0.7)),
        behind=st.sampled_from((1, 8, REMEMBERED, 3 * REMEMBERED)),
        topics=st.sampled_from(("own", "one", "any")),
        lags=st.lists(st.sampled_from((0, HOUR, 20 * DAY, 3000 * DAY)), max_size=4).map(tuple),
    )


SHAPES = shapes()
searching = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# The laws -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", TOGETHER, ids=lambda only: "+".join(only) or "everything")
@searching
@given(data=st.data())
def test_every_feature_equals_the_naive_recomputation(only: tuple[str, ...], data: st.DataObject) -> None:
    records = data.draw(shapes(only)).arrival()
    zone = data.draw(st.sampled_from(sorted(CALENDARS)))
    later = data.draw(st.sampled_from((0, HOUR, 3 * DAY, 29 * DAY, 400 * DAY)))
    # What is wrong in between may be right again at the end.
    stops = sorted(
        {*Random(len(records)).sample(range(len(records) + 1), min(5, len(records))), len(records)}
    )
    state, done = State(), 0
    for stop in stops:
        state, done = state.after(records[done:stop], CALENDARS[zone]), stop
        at = max((record.item.at for record in records[:stop]), default=START) + later
        assert differences(state.observed(at), recompute(records[:stop], at, time_zone=zone)) == {}


@searching
@given(SHAPES.filter(lambda shape: shape.topics != "any"))
def test_how_the_topics_interleave_makes_no_difference(shape: Shape) -> None:
    one, other = shape.arrival(0), shape.arrival(1)
    at = max((record.item.at for record in one), default=START)
    assert differences(State().after(one).observed(at), State().after(other).observed(at)) == {}


@searching
@given(SHAPES.filter(lambda shape: shape.variety <= 3 and not shape.resent), st.integers(0, 2**32))
def test_no_order_of_arrival_makes_a_difference_while_nothing_is_forgotten(shape: Shape, seed: int) -> None:
    records = _within_bounds(shape.arrival())
    shuffled = Random(seed).sample(records, len(records))
    at = max((record.item.at for record in records), default=START)
    assert differences(State().after(records).observed(at), State().after(shuffled).observed(at)) == {}


@searching
@given(st.lists(st.integers(30 * DAY, 60 * DAY), min_size=3, max_size=6, unique=True))
def test_of_two_categories_that_weigh_the_same_the_greater_name_is_forgotten(ages: list[int]) -> None:
    kept = []
    for order in (ages, ages[::-1]):
        views = [("a", age) for age in order] + [("b", age) for age in order[::-1]]
        views += [(f"k{n}", 0) for n in range(BROWSED - 1) for _ in range(20)]
        records = [
            read(
                "browses",
                n,
                ev.View(id=f"e{n}", customer="c", time=ev.to_datetime(START - age), category=name),
            )
            for n, (name, age) in enumerate(views)
        ]
        kept.append(set(State().after(records).parts()[1].browsed))
    assert kept[0] == kept[1]
    assert "b" not in kept[0]


def _within_bounds(records: list[Read]) -> list[Read]:
    """Those records that no bound makes anyone forget."""
    orders: set[str] = set()
    days: set[int] = set()
    cases: set[tuple[str, str]] = set()
    kept = []
    for record in records:
        event = record.item.event
        if isinstance(event, ev.Purchase):
            order, day = event.order or event.id, record.item.at // DAY
            if order in orders or len(days | {day}) > WINDOW:
                continue
            orders.add(order)
            days.add(day)
        for group in ("complaint", "inquiry"):
            if case := getattr(event, group, None):
                cases.add((group, case))
        if sum(group == "complaint" for group, _ in cases) > CASES:
            break
        if sum(group == "inquiry" for group, _ in cases) > CASES:
            break
        kept.append(record)
    return kept


@searching
@given(SHAPES)
def test_an_event_never_changes_the_record_it_is_applied_to(shape: Shape) -> None:
    customer, cold = Customer(), EMPTY_COLD
    for record in shape.arrival():
        before = pack_hot(customer), pack_cold(cold)
        following = apply(customer, cold, record.item, INPUTS.index(record.topic), CALENDARS["UTC"])
        assert (pack_hot(customer), pack_cold(cold)) == before
        customer, cold = following.customer, following.cold


@searching
@given(SHAPES)
def test_what_is_sent_again_within_the_window_changes_nothing(shape: Shape) -> None:
    customer, cold = Customer(), EMPTY_COLD
    window: dict[str, list[Read]] = {}
    random = Random(shape.seed)
    for record in shape.arrival():
        topic = INPUTS.index(record.topic)
        applied = apply(customer, cold, record.item, topic, CALENDARS["UTC"])
        customer, cold = applied.customer, applied.cold
        known = window.setdefault(record.topic, [])
        if not applied.duplicate:
            known.append(record)
        if known:
            again = random.choice(known[-REMEMBERED:])
            repeated = apply(customer, cold, again.item, topic, CALENDARS["UTC"])
            assert repeated.duplicate
            assert repeated.customer is customer
            assert repeated.cold is cold


@searching
@given(st.integers(0, 2**32), st.integers(1, 3 * REMEMBERED))
def test_an_order_sent_again_under_another_id_counts_once(seed: int, between: int) -> None:
    random = Random(seed)
    first = ev.Purchase(
        id="a", customer="c", time=ev.to_datetime(START), order="o", lines=(ev.Line(amount=10.0),)
    )
    others = [
        MAKERS["purchase"](
            random, {"id": f"b{n}", "customer": "c", "time": ev.to_datetime(START + n * HOUR)}, 3
        )
        for n in range(between)
    ]
    again = ev.Purchase(
        id="z", customer="c", time=ev.to_datetime(START), order="o", lines=(ev.Line(amount=10.0),)
    )
    records = [read("purchases", n, event) for n, event in enumerate([first, *others, again])]
    at = START + 400 * DAY
    assert differences(State().after(records).observed(at), recompute(records, at)) == {}
    if between < REMEMBERED:
        assert State().after(records).hot == State().after(records[:-1]).hot


@searching
@given(SHAPES, st.integers(1, 50))
def test_how_often_the_record_is_stored_makes_no_difference(shape: Shape, stored: int) -> None:
    records = shape.arrival()
    assert State().after(records) == State().after(records, stored=stored)


# Bounds ---------------------------------------------------------------------------------------------

HOT_CAP, COLD_CAP = 2_500, 50_000
"""Bytes that no history exceeds, with names as long and wide as the contract lets them be."""
HOT_P99, COLD_P99 = 1_200, 1_000
"""Bytes that 99 of 100 simulated customers stay below."""


def test_a_record_is_bounded_whatever_the_history() -> None:
    wide = "\N{MUSICAL SYMBOL G CLEF}"
    random = Random(1)
    state = State()
    customer, cold = state.parts()
    for number in range(4000):
        at = START + number * 7 * HOUR
        name = f"{number % 97:03d}" + wide * 125
        short = f"{number % 97:03d}" + wide * 61
        common: dict[str, Any] = {"id": f"e{number}", "customer": "c", "time": ev.to_datetime(at)}
        lines = tuple(ev.Line(amount=1e6, sku=f"{n:02d}{name[2:]}", list_price=2e6) for n in range(20))
        event = random.choice(
            (
                ev.Purchase(**common, lines=lines, channel=name, store=name, region=name),
                ev.View(**common, sku=name),
                ev.Cart(**common, action="add", sku=name, amount=1e6),
                ev.Use(**common),
                ev.Complaint(**common, complaint=short, kind="delivery"),
                ev.ComplaintUpdate(**common, complaint=short, status="reopened"),
                ev.Inquiry(**common, inquiry=short, topic=name),
                ev.InquiryUpdate(**common, inquiry=short, status="reopened"),
                ev.Survey(**common, score=3.0, scale=7.0),
                ev.CustomerLost(**common),
            )
        )
        item = read(INPUTS[0], number, event).item
        customer, cold, *_ = apply(customer, cold, item, number % len(INPUTS), CALENDARS["UTC"])
        assert len(pack_hot(customer)) <= HOT_CAP
        assert len(pack_cold(cold)) <= COLD_CAP
    assert len(cold.basket) <= CATEGORIES
    assert len(cold.browsed) <= BROWSED
    assert len(cold.cart) <= CART
    assert max(len(cold.complaints), len(cold.inquiries)) <= CASES
    assert max(len(cold.channels), len(cold.stores), len(cold.regions)) <= COUNTED


def test_simulated_customers_equal_the_twin_and_stay_small() -> None:
    lives: dict[str, list[Read]] = {}
    for offset, event in enumerate(simulate(seed=11, customers=150, days=180)):
        lives.setdefault(event.customer, []).append(read(TOPIC_OF[ev.type_name(event)], offset, event))
    at = START + 200 * DAY
    hot, cold = [], []
    for records in lives.values():
        state = State().after(records, stored=7)
        assert differences(state.observed(at), recompute(records, at)) == {}
        hot.append(len(state.hot or b""))
        cold.append(len(state.cold or b""))
    assert sorted(hot)[int(0.99 * len(hot))] <= HOT_P99
    assert sorted(cold)[int(0.99 * len(cold))] <= COLD_P99
