"""Where batches and steps end makes no difference to what is decided."""

from __future__ import annotations

import functools
from collections import Counter

import msgspec
import pytest

from alerts.policy import Feeds, Policy
from features.customer import Customer
from streams.topics import INPUTS, PURCHASES
from tests.application import Application, Log
from tests.laws import mix

POLICY = Policy(deliver_per_minute=1)
"""A ceiling so low that it bites: what it marks must not depend on batches either."""
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


@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_the_whole_output_stands_in_the_order_of_its_causes(only: str | None) -> None:
    """Not only each customer's: the ceiling counts in this order."""
    assert list(applied(only, 7, 3).messages) == list(plain(only).messages)


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
