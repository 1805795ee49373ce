"""Where batches and steps end makes no difference to what is decided."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import Turn
from alerts.policy import Feeds, Policy
from features.customer import Customer
from features.shop import HOUR
from streams import events as ev
from streams.topics import INPUTS, PURCHASES
from tests.application import START, Application, Log
from tests.laws import mix

POLICY = Policy(deliver_per_minute=1)
"""A ceiling so low that it bites: what it marks must not depend on batches either."""
CATEGORIES = st.sampled_from(["tea", "milk", None])
FEEDS = Feeds(min_expected=5, window_days=2)


@functools.cache
def log(only: str | None) -> Log:
    return mix.shop(only=only, history_days=20)


@functools.cache
def applied(only: str | None, batch: int, limit: int) -> Application:
    inputs = (only,) if only else INPUTS
    return Application(inputs, batch=batch, limit=limit, policy=POLICY, feeds=FEEDS).run(log(only).rows)


def plain(only: str | None) -> Application:
    return applied(only, 500, 500)


def states(application: Application) -> dict[bytes, Customer]:
    """All but how early the stored deadlines are: that depends on the commits."""
    found = {}
    for key in application.hot:
        customer = application.customer(key)
        standing = msgspec.structs.replace(customer.standing, due=0)
        found[key] = msgspec.structs.replace(customer, standing=standing)
    return found


@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
@pytest.mark.parametrize(("batch", "limit"), [(1, 500), (7, 3), (2000, 1)])
def test_batch_sizes_and_timer_limits_make_no_difference(only: str | None, batch: int, limit: int) -> None:
    expected = plain(only)
    other = applied(only, batch, limit)
    assert other.by_customer() == expected.by_customer()
    assert other.dead_letters() == expected.dead_letters()
    assert states(other) == states(expected)
    assert other.cold == expected.cold
    assert other.partition == expected.partition


def test_partitions_whose_turns_are_taken_together_decide_what_each_decides_alone() -> None:
    """Beside each turn run the two before it again, as if they were of other partitions."""
    application = Application(INPUTS, batch=50, policy=POLICY, feeds=FEEDS)
    engine = application.engine
    alone = engine.events
    before: list[tuple[tuple[Any, ...], Turn]] = []

    def events(*asked: Any) -> Turn:
        company = before[-2:]
        expected = [*(turn for _, turn in company), alone(*asked)]
        found = engine.turns([engine.begin(*one) for one in [*(one for one, _ in company), asked]])
        assert found == expected
        before.append((asked, found[-1]))
        return found[-1]

    engine.events = events  # type: ignore[method-assign,assignment]
    application.run(log(None).rows)
    assert application.hot == applied(None, 50, 500).hot


@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_the_whole_output_stands_in_the_order_of_its_causes(only: str | None) -> None:
    """Not only each customer's: the ceiling counts in this order."""
    assert list(applied(only, 7, 3).messages) == list(plain(only).messages)


@st.composite
def lives(draw: st.DrawFn) -> Log:
    """A few customers in one topic: close together in time, often late, with clock records anywhere."""
    log = Log(only=PURCHASES)
    hour = 0
    for _ in range(draw(st.integers(5, 60))):
        hour += draw(st.sampled_from([0, 0, 1, 4, 20, 24, 200, 800]))
        at = START + hour * HOUR - draw(st.sampled_from([0, 0, 0, 1, 30, 400])) * HOUR
        customer = draw(st.sampled_from(["ann", "bob", "cas"]))
        what = draw(st.integers(0, 11))
        history = draw(st.sampled_from([False, False, True]))
        if what <= 2:
            log.tick(START + hour * HOUR, history=history)
        elif what <= 5:
            identity = draw(st.sampled_from([None, None, "again"]))
            log.purchase(customer, at, category=draw(CATEGORIES), identity=identity, history=history)
        elif what == 6:
            log.cart(
                customer, at, draw(st.sampled_from(["s1", "s2"])), draw(st.sampled_from(["add", "remove"]))
            )
        elif what == 7:
            log.complaint(customer, at, draw(st.sampled_from(["c1", "c2"])))
            log.complaint_update(customer, at + draw(st.integers(0, 99)) * HOUR, "resolved")
        elif what == 8:
            log.lost(customer, at, history=history)
        elif what <= 10:
            # Changes nothing that a decision rests on, or only a little, and does not touch the cold part.
            make = draw(st.sampled_from([ev.Search, ev.Use]))
            log.add(make(id=log.identity(), customer=customer, time=ev.to_datetime(at), history=history))
        else:
            for _ in range(4):
                log.view(customer, at, draw(CATEGORIES), history=history)
    log.tick(START + (hour + draw(st.sampled_from([0, 100, 10_000]))) * HOUR)
    return log


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives(), st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 3]))
def test_no_history_is_found_for_which_batches_make_a_difference(log: Log, batch: int, limit: int) -> None:
    policy = Policy(deliver_per_minute=1, offer_pause_days=1.0)
    expected = Application(policy=policy).run(log.rows)
    other = Application(policy=policy, batch=batch, limit=limit).run(log.rows)
    assert list(other.messages) == list(expected.messages)
    assert states(other) == states(expected)
    assert other.cold == expected.cold
    ids = [seen.alert.id for seen in other.seen()]
    assert len(ids) == len(set(ids))


def test_the_mix_has_everything() -> None:
    """So that the law above is not kept by a shop where nothing happens."""
    for only in (PURCHASES, None):
        application = plain(only)
        steps = Counter(application.steps())
        assert {"raised", "worsened", "improved", "resolved", "expired"} == {
            step.removeprefix("churn.") for step in steps if step.startswith("churn.")
        }, steps
        assert steps["upsell.raised"] > 5
        assert steps["upsell.withdrawn"] > 5
        withheld = Counter(seen.withheld for seen in application.seen())
        assert withheld.keys() == {None, "history", "silent", "ceiling"}, withheld
        names = {key[0] for key in application.counts}
        assert names >= {"late", "duplicate", "look", "refused", "score", "fired", "held"}
        kinds = {key[1] for key in application.counts if key[0] == "event"}
        assert len(kinds) == 19, kinds
