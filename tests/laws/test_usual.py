"""Customers who are dealt with together, as rows of arrays, are what they would be alone, to the last byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.forgotten import Retention
from alerts.policy import Feeds, Policy
from alerts.usual import Usual
from features.shop import DAY, HOUR, Shop
from models.learning import Learning
from streams.codec import Decoded
from streams.topics import INPUTS, PURCHASES
from tests.application import START, Application, Log, Row
from tests.laws import mix
from tests.laws.test_batches import lives
from tests.laws.test_forget import SECRET
from tests.laws.test_forget import lives as forgotten_lives

FEEDS = Feeds(min_expected=5, window_days=2)
POLICIES = [
    Policy(deliver_per_minute=1),
    Policy(look_days=0.25, offer_pause_days=1, offer_repeat_days=3, score_change=0.02),
    Policy(medium=0.3, high=0.5, warn_at="high", rise=0.1, lapsed_days=30, score_change=0.3),
]


def together(application: Application) -> Application:
    """However few there are."""
    application.engine.fewest = 1
    return application


def alone(application: Application) -> Application:
    application.engine.together = False
    return application


def assert_equal(one: Application, other: Application) -> None:
    assert list(one.messages) == list(other.messages)
    assert one.hot == other.hot
    assert one.cold == other.cold
    assert one.due == other.due
    assert +one.counts == +other.counts
    assert one.partition == other.partition


def busy(seed: int) -> list[Row]:
    """Nothing but views, searches and orders, of many customers, most of them in order."""
    log = mix.shop(seed, customers=40, days=60, only=PURCHASES)
    usual = (b'"view"', b'"search"', b'"purchase"', b'"clock"')
    return [row for row in log.rows if row.value and any(kind in row.value for kind in usual)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_a_shop_with_everything(policy: Policy, only: str | None) -> None:
    inputs = (only,) if only else INPUTS
    rows = mix.shop(only=only, history_days=20).rows
    for batch, limit in ((2000, 2000), (60, 5)):

        def made(batch: int = batch, limit: int = limit) -> Application:
            return Application(inputs, batch=batch, limit=limit, policy=policy, feeds=FEEDS)

        assert_equal(together(made()).run(rows), alone(made()).run(rows))


@pytest.mark.parametrize(
    "made",
    [
        Application,
        lambda: Application(
            shop=Shop(time_zone="America/Santiago", closing_days=("2026-01-07",)), feeds=FEEDS
        ),
        lambda: Application(learning=Learning(enabled=False)),
        lambda: Application(
            learning=Learning(activity="purchase_or_use", horizons=(7.0, 60.0), snapshot_days=3)
        ),
    ],
    ids=["as set", "another time zone", "nothing is learned", "much is learned"],
)
def test_a_shop_of_the_usual(made: Callable[[], Application], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = busy(5)
    expected = alone(made()).run(rows)
    counted = [0, 0]
    run = Usual.turns

    def watched(self: Usual, chosen: object, fewest: int) -> object:
        found = run(self, chosen, fewest)  # type: ignore[arg-type]
        counted[0] += sum(len(lived.hot) for lived in found)
        counted[1] += sum(len(lived.left) for lived in found)
        return found

    monkeypatch.setattr(Usual, "turns", watched)
    assert_equal(together(made()).run(rows), expected)
    # This says that arrays were used at all: most who were tried stayed.
    assert counted[0] > 2 * counted[1] > 0


def test_under_the_wall_clock() -> None:
    rows = mix.shop(3, customers=30, days=40).rows
    events = [row for row in rows if row.value and b'"clock"' not in row.value]

    def run(application: Application) -> Application:
        step = len(events) // 30
        for number in range(30):
            some = events[number * step : (number + 1) * step]
            application.run(some, read_to=START + number * DAY + 5 * HOUR)
            newest = max(
                (item.at for row in some if isinstance(item := application.codec.decode(row), Decoded)),
                default=0,
            )
            if number == 4:
                application.go_live(newest)
            if number > 4:
                application.sweep(newest - HOUR)
        return application

    def made() -> Application:
        return Application(INPUTS, clock="wall", feeds=Feeds(enabled=False))

    assert_equal(run(together(made())), run(alone(made())))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(lives(), st.sampled_from(POLICIES), st.sampled_from([2, 2000]))
def test_no_history_is_found_for_which_it_makes_a_difference(log: Log, policy: Policy, batch: int) -> None:
    def made() -> Application:
        return Application(policy=policy, batch=batch)

    assert_equal(together(made()).run(log.rows), alone(made()).run(log.rows))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(forgotten_lives(), st.sampled_from([2, 2000]))
def test_nor_one_in_which_somebody_is_forgotten_or_heard_of_no_more(log: Log, batch: int) -> None:
    def made() -> Application:
        return Application(
            secret=SECRET,
            retention=Retention(20 * DAY, 60 * DAY),
            policy=POLICIES[1],
            batch=batch,
        )

    assert_equal(together(made()).run(log.rows), alone(made()).run(log.rows))
