"""Whatever the history, a customer and a partition stay small.

Caps (bytes packed, hot and cold together): 112,000 for a customer made of the longest names that the
contract allows in four-byte characters, 32,000 with names in ASCII. On generated shops the 99th percentile
stays below 2,500 and the median below 1,500.
"""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from agents.simulator import simulate
from alerts.policy import Policy
from features.cold import BROWSED, CART, CASES, CATEGORIES, COUNTED, OFFERED
from features.customer import REMEMBERED
from features.rhythm import WINDOW
from features.shop import DAY, HOUR
from streams import events as ev
from streams.topics import INPUTS, PURCHASES
from tests.application import Application, Log, day
from tests.laws import mix

CAP_ASCII = 32_000
CAP_WIDE = 112_000
P99 = 2_500
MEDIAN = 1_500
EAGER = Policy(offer_pause_days=0.01, offer_days=0.01, offer_repeat_days=3650.0)
"""The policy under which most offers are remembered."""


def size(application: Application, key: bytes) -> int:
    return len(application.hot[key]) + len(application.cold.get(key, b""))


def restless(letter: str, *, seed: int = 1, rounds: int = 50) -> Log:
    """One customer who uses every field to its bounds, with new names all the time."""
    log = Log()
    random = Random(seed)
    count = 0

    def name(length: int = 128) -> str:
        nonlocal count
        count += 1
        return f"{count:08}" + letter * (length - 8)

    for number in range(rounds):
        at = day(number * 2.0)
        lines = tuple(ev.Line(amount=1e6, sku=name(), category=name()) for _ in range(20))
        known = name()
        for step in range(4):
            log.add(
                ev.Purchase(
                    id=name(64),
                    customer="ann",
                    time=ev.to_datetime(at + step * DAY),
                    lines=(*lines, ev.Line(amount=1.0, category=known)),
                    order=name(),
                    channel=name(),
                    region=name(),
                    store=name(),
                ),
                random.choice(INPUTS[:4]),
            )
        for _ in range(4):
            log.add(ev.View(id=name(64), customer="ann", time=ev.to_datetime(at), category=name()))
            log.add(
                ev.Cart(
                    id=name(64),
                    customer="ann",
                    time=ev.to_datetime(at + 5 * DAY),
                    action="add",
                    sku=name(),
                    amount=1e12,
                )
            )
        log.add(
            ev.Complaint(
                id=name(64), customer="ann", time=ev.to_datetime(at), complaint=name(64), kind="service"
            )
        )
        log.add(
            ev.Inquiry(id=name(64), customer="ann", time=ev.to_datetime(at), inquiry=name(64), topic=name())
        )
        log.add(
            ev.InquiryUpdate(
                id=name(64), customer="ann", time=ev.to_datetime(at), inquiry=name(64), status="answered"
            )
        )
        if number > rounds // 2:
            # Offers need complaints that have ended.
            for old in range(20):
                log.add(
                    ev.ComplaintUpdate(
                        id=name(64),
                        customer="ann",
                        time=ev.to_datetime(at),
                        complaint=f"{old}" if old else name(64),
                        status="resolved",
                    )
                )
    return log


@pytest.mark.parametrize(("letter", "cap"), [("x", CAP_ASCII), ("\U0001f600", CAP_WIDE)])
def test_a_customer_stays_below_the_cap_whatever_the_history(letter: str, cap: int) -> None:
    application = Application(INPUTS, policy=EAGER, batch=200).run(restless(letter).rows)
    assert application.customer("ann").events > 1_000
    assert size(application, b"ann") < cap
    assert size(application, b"ann") > cap / 3, "the cap says something"
    cold, customer = application.habits("ann"), application.customer("ann")
    assert len(cold.basket) == CATEGORIES
    assert len(cold.browsed) == BROWSED
    assert len(cold.cart) <= CART
    assert len(cold.complaints) == CASES
    assert len(cold.inquiries) == CASES
    assert {len(cold.channels), len(cold.regions), len(cold.stores)} == {COUNTED}
    assert len(cold.offered) <= OFFERED
    assert len(customer.rhythm.days) == WINDOW
    assert len(customer.open_since) <= CASES
    assert all(len(ring) <= REMEMBERED * 8 for ring in customer.seen)
    assert len(customer.seen_orders) == REMEMBERED * 8


def test_offers_remembered_are_bounded_under_any_policy() -> None:
    log = Log()
    for number in range(120):
        at = day(number)
        for item in range(5):
            log.cart("ann", at, f"s{number}-{item}")
        log.survey("ann", at + 5 * HOUR, 9.0)
        log.tick(at + 6 * HOUR)
        log.purchase("ann", at + 7 * HOUR)
    application = Application(policy=EAGER).run(log.rows)
    assert application.steps("ann").count("upsell.raised") > 80
    assert len(application.habits("ann").offered) == OFFERED
    newest = max(application.habits("ann").offered.values())
    assert newest > day(115), "the newest are kept"


def test_typical_customers_are_small_on_a_generated_shop() -> None:
    log = Log()
    shop = simulate(seed=1, customers=80, days=60)
    for event in shop:
        log.add(event)
    application = Application(INPUTS, batch=2000).run(log.rows)
    sizes = sorted(size(application, key) for key in application.hot)
    assert len(sizes) >= 80
    assert sizes[len(sizes) // 2] < MEDIAN
    assert sizes[int(len(sizes) * 0.99)] < P99
    assert sizes[-1] < CAP_ASCII


def test_a_customer_who_only_buys_takes_a_few_hundred_bytes() -> None:
    """As on CDNOW: at most 1,000 bytes of Redis with keys, sorted set and overhead."""
    log = Log()
    for number in range(100):
        for step in range(number % 7 + 1):
            log.purchase(f"c{number}", day(number % 30 + step * 13))
    log.tick(day(200))
    application = Application().run(log.rows)
    sizes = sorted(size(application, key) for key in application.hot)
    # Of these, the snapshots that wait for their label, two or three, are 420 bytes at most.
    assert sizes[len(sizes) // 2] < 750
    assert sizes[-1] < 950


def test_a_partition_stays_small_however_long_it_runs() -> None:
    log = Log(PURCHASES)
    for number in range(400):
        log.purchase(f"c{number % 10}", day(number) + number % 24 * HOUR)
        if number % 3 == 0:
            log.raw(PURCHASES, b"x", b"{")
        log.tick(day(number + 1))
    application = Application().run(log.rows)
    assert application.partition.clock == day(400)
    assert all(len(feed.hours) <= 24 * 7 for feed in application.partition.feeds.values())
    # Beside these: what at most 4,096 minutes with deliveries take (see tests/alerts/test_partition.py).
    assert len(msgspec.structs.replace(application.partition, minutes={}).pack()) < 2_500


def test_messages_are_bounded_by_what_one_event_can_cause() -> None:
    application = Application((PURCHASES,), policy=EAGER).run(mix.shop(2, only=PURCHASES).rows)
    assert max(len(message.value or b"") for message in application.messages) < 10_000
