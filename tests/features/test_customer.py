from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from features.cold import Cold, tier
from features.customer import (
    DECISIVE,
    EMPTY_COLD,
    MOST_MONEY,
    REMEMBERED,
    VERSION,
    Applied,
    Customer,
    UnknownVersion,
    apply,
    newest_cart,
    pack_cold,
    pack_hot,
    remembered,
    touches_cold,
    unpack_cold,
    unpack_hot,
)
from features.rhythm import WINDOW, Fold, Rhythm
from features.shop import DAY, Calendar, Shop
from features.standing import Episode, Standing
from streams import events as ev
from streams.codec import Decoded
from tests.application import Application, Log, day
from tests.laws import mix

CALENDAR = Calendar(Shop())
CODEC = Application().codec


def items(log: Log) -> list[Decoded]:
    found = [CODEC.decode(row) for row in log.rows]
    return [item for item in found if isinstance(item, Decoded)]


def after(
    log: Log, customer: Customer | None = None, cold: Cold = EMPTY_COLD, topics: Sequence[int] = ()
) -> Applied:
    state = Applied(customer or Customer(), cold)
    for number, item in enumerate(items(log)):
        topic = topics[number] if topics else 0
        state = apply(state.customer, state.cold, item, topic, CALENDAR)
    return state


def test_apply_leaves_the_record_it_was_given_alone() -> None:
    log = Log()
    log.purchase("ann", day(0), category="tea")
    log.purchase("ann", day(5), category="milk")
    first, second = items(log)
    before = apply(Customer(), EMPTY_COLD, first, 0, CALENDAR)
    packed = pack_hot(before.customer), pack_cold(before.cold)
    again = [apply(before.customer, before.cold, second, 0, CALENDAR) for _ in range(2)]
    assert (pack_hot(before.customer), pack_cold(before.cold)) == packed
    assert pack_hot(again[0].customer) == pack_hot(again[1].customer)
    assert (pack_hot(Customer()), pack_cold(EMPTY_COLD)) == (pack_hot(Customer()), pack_cold(Cold()))


def test_a_purchase_counts_money_days_and_habits() -> None:
    log = Log()
    log.purchase("ann", day(0), 10.5, category="tea")
    log.purchase("ann", day(7), 4.25, category="tea")
    customer, cold = after(log)[:2]
    assert (customer.orders, customer.spend, customer.events) == (2, 1475, 2)
    assert (customer.first_purchase, customer.last_purchase) == (day(0), day(7))
    assert customer.rhythm.now.gaps == 1
    assert cold.basket["tea"].events == 2
    assert cold.weekdays == {3: 2}


def test_a_purchase_of_nothing_is_no_purchase() -> None:
    log = Log()
    log.purchase("ann", day(0), 0.0, category="tea")
    state = after(log)
    assert not state.bought
    assert (state.customer.orders, state.customer.others, state.customer.last_purchase) == (0, 1, 0)
    assert state.cold == EMPTY_COLD


def test_a_line_of_nothing_counts_for_no_category() -> None:
    lines = (ev.Line(amount=0.0, category="tea"), ev.Line(amount=1.0, sku="s1"), ev.Line(amount=2.0))
    log = Log()
    log.add(ev.Purchase(id="1", customer="ann", time=ev.to_datetime(day(0)), lines=lines))
    assert after(log).cold.basket.keys() == {"sku:s1"}


def test_a_resend_within_the_last_32_of_its_topic_changes_nothing() -> None:
    log = Log()
    log.lost("ann", day(0))
    first = log.rows[0]
    for number in range(REMEMBERED - 1):
        log.view("ann", day(number))
    state = after(log)
    again = CODEC.decode(first)
    assert isinstance(again, Decoded)
    known = apply(state.customer, state.cold, again, 0, CALENDAR)
    assert known.duplicate
    assert known.customer is state.customer
    log.view("ann", day(90))
    beyond = after(log)
    assert not apply(beyond.customer, beyond.cold, again, 0, CALENDAR).duplicate


def test_each_topic_remembers_its_own_ids() -> None:
    log = Log()
    log.lost("ann", day(0))
    (item,) = items(log)
    once = apply(Customer(), EMPTY_COLD, item, 0, CALENDAR)
    assert not apply(once.customer, once.cold, item, 3, CALENDAR).duplicate
    assert len(apply(once.customer, once.cold, item, 3, CALENDAR).customer.seen) == 4


def test_a_purchase_is_known_by_its_order_on_any_topic_with_any_id() -> None:
    log = Log()
    log.purchase("ann", day(0), order="o1", identity="a")
    log.purchase("ann", day(0), order="o1", identity="b")
    log.purchase("ann", day(0), order="o2", identity="c")
    state = after(log, topics=[0, 1, 1])
    assert state.customer.orders == 2


def test_a_hash_is_found_only_where_one_begins() -> None:
    ring = bytes(range(8)) + bytes(range(8, 16))
    assert remembered(ring, bytes(range(8)))
    assert remembered(ring, bytes(range(8, 16)))
    assert not remembered(ring, bytes(range(4, 12)))
    hidden = b"\x01" * 4 + b"\x02" * 8 + b"\x01" * 4 + b"\x02" * 8
    assert remembered(hidden, b"\x02" * 8)


def test_a_purchase_day_older_than_those_kept_counts_in_sums_only() -> None:
    log = Log()
    for number in range(WINDOW):
        log.purchase("ann", day(100 + number * 3))
    before = after(log)
    log.purchase("ann", day(1), 7.0)
    state = after(log)
    assert state.late
    assert state.customer.late == 1
    assert state.customer.orders == WINDOW + 1
    assert state.customer.spend == before.customer.spend + 700
    assert state.customer.first_purchase == day(1)
    assert state.customer.rhythm == before.customer.rhythm


def test_what_does_not_fit_is_refused_and_has_changed_nothing() -> None:
    rich = Customer(spend=MOST_MONEY - 5, returned=MOST_MONEY, orders=1)
    packed = pack_hot(rich)
    log = Log()
    log.purchase("ann", day(0), 1.0)
    with pytest.raises(ValueError, match="money"):
        after(log, rich)
    log = Log()
    lines = (ev.Line(amount=1.0),)
    log.add(ev.Return(id="r", customer="ann", time=ev.to_datetime(day(0)), lines=lines))
    with pytest.raises(ValueError, match="money"):
        after(log, rich)
    assert pack_hot(rich) == packed


def test_open_complaints_and_when_the_last_ended_follow_from_the_cases() -> None:
    log = Log()
    log.complaint("ann", day(3), "b")
    log.complaint("ann", day(1), "a")
    assert after(log).customer.open_since == (day(1), day(3))
    log.complaint_update("ann", day(5), "resolved", "a")
    customer = after(log).customer
    assert (customer.open_since, customer.closed_at) == ((day(3),), day(5))
    log.complaint_update("ann", day(6), "reopened", "a")
    customer = after(log).customer
    assert (customer.open_since, customer.closed_at) == ((day(1), day(3)), 0)


def test_an_update_of_an_unknown_complaint_opens_nothing() -> None:
    log = Log()
    log.complaint_update("ann", day(1), "reopened", "x")
    assert after(log).customer.open_since == ()


def test_the_newest_survey_holds_and_of_two_at_one_instant_the_lower() -> None:
    log = Log()
    log.survey("ann", day(2), 8)
    log.survey("ann", day(1), 1)
    assert after(log).customer.satisfaction == pytest.approx(0.8)
    log.survey("ann", day(2), 3)
    log.survey("ann", day(2), 9)
    assert after(log).customer.satisfaction == pytest.approx(0.3)


def test_a_cart_is_what_was_put_in_last() -> None:
    log = Log()
    log.cart("ann", day(2), "s1", "remove")
    log.cart("ann", day(1), "s1")
    log.cart("ann", day(1), "s2")
    state = after(log)
    assert newest_cart(state.cold, 0) == day(1)
    log.cart("ann", day(3), "s1")
    assert newest_cart(after(log).cold, 0) == day(3)
    log.purchase("ann", day(4))
    state = after(log)
    assert (newest_cart(state.cold, state.customer.last_purchase), state.cold.cart) == (0, {})
    log.cart("ann", day(3.5), "s3")
    assert after(log).cold.cart == {}, "settled by a purchase that came before it was read"


def test_only_what_can_decide_counts_as_decisive() -> None:
    log = Log()
    log.view("ann", day(5), "tea")
    assert after(log).customer.last_decisive == 0
    log.survey("ann", day(3), 5)
    log.survey("ann", day(2), 5)
    assert after(log).customer.last_decisive == day(3)
    names = {ev.type_name(kind) for kind in DECISIVE}
    assert names == {
        "purchase",
        "return",
        "complaint",
        "complaint_update",
        "inquiry",
        "inquiry_update",
        "survey",
        "cart",
        "checkout",
        "customer_lost",
        "alert_feedback",
    }


def test_the_cold_part_is_loaded_for_every_event_that_changes_it() -> None:
    """Otherwise an empty one would be written over it."""
    application = Application()

    for row in mix.shop(1, customers=20, days=40, only="purchases").rows:
        item = application.codec.decode(row)
        if isinstance(item, Decoded):
            applied = apply(Customer(), EMPTY_COLD, item, 0, CALENDAR)
            if applied.cold is not EMPTY_COLD:
                assert touches_cold(item.event)


def test_both_parts_survive_being_stored() -> None:
    log = Log()
    log.purchase("ann", day(0), category="tea")
    log.cart("ann", day(1), "s1")
    log.complaint("ann", day(1))
    log.survey("ann", day(1), 3)
    state = after(log)
    state.customer.standing = Standing(
        at=day(1), churn=Episode(day(1), 1, 1, day(0)), upsell=Episode(day(1), 0, 2, day(0), ("a|b",))
    )
    assert unpack_hot(pack_hot(state.customer)) == state.customer
    assert unpack_cold(pack_cold(state.cold)) == state.cold
    assert unpack_hot(None) == Customer()
    assert unpack_cold(None) == Cold()


def test_a_state_of_the_version_before_is_read_and_written_anew() -> None:
    log = Log()
    for number in range(40):
        log.purchase("ann", day(number * 2), category="tea")
    log.complaint("ann", day(81))
    log.survey("ann", day(81), 3)
    log.cart("ann", day(82), "s1")
    state = after(log)
    state.customer.standing = Standing(
        at=day(82), churn=Episode(day(81), 1, 1, day(78)), upsell=Episode(day(81), 0, 2, day(78), ("a|b",))
    )
    encode = msgspec.msgpack.Encoder().encode
    before = b"\x02" + encode(state.customer), b"\x02" + encode(state.cold)
    assert unpack_hot(before[0]) == state.customer
    assert unpack_cold(before[1]) == state.cold
    assert pack_hot(unpack_hot(before[0])) == pack_hot(state.customer)
    assert pack_hot(state.customer)[0] == pack_cold(state.cold)[0] == VERSION == 3


def test_a_cold_part_from_before_tiers_were_kept_is_read_and_has_none() -> None:
    log = Log()
    log.purchase("ann", day(0), category="tea")
    log.cart("ann", day(1), "s1")
    cold = after(log).cold
    fields = msgspec.msgpack.decode(pack_cold(cold)[1:])
    before = bytes([VERSION]) + msgspec.msgpack.encode(fields[:12])
    assert len(fields) == 13
    assert unpack_cold(before) == cold
    assert tier(unpack_cold(before)) is None


def test_purchase_days_that_lie_centuries_apart_are_kept_as_they_are() -> None:
    centuries = (0, 1, 80_000)
    customer = Customer(rhythm=Rhythm(centuries, Fold(), Fold(2, 1.0, 0.5)))
    assert unpack_hot(pack_hot(customer)) == customer


def test_a_state_of_a_newer_version_is_refused() -> None:
    newer = bytes([VERSION + 1])
    with pytest.raises(UnknownVersion, match="run the newer release"):
        unpack_hot(newer + pack_hot(Customer())[1:])
    with pytest.raises(UnknownVersion, match="run the newer release"):
        unpack_cold(newer + pack_cold(Cold())[1:])


def test_the_next_deadline_is_the_earliest_there_is() -> None:
    assert Standing().next_deadline() == 0
    assert Standing(look=5).next_deadline() == 5
    assert Standing(look=5, cart_due=3).next_deadline() == 3
    assert Standing(cart_due=3, complaint_due=2).next_deadline() == 2
    assert Standing(look=1, complaint_due=DAY).next_deadline() == 1
