"""What is not looked at has nothing to say: looking ahead leaves out only looks that change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import _Cause, _Life
from alerts.policy import Feeds, Policy
from features.shop import DAY
from streams.topics import INPUTS, PURCHASES
from tests.application import START, Application, Log, Row
from tests.laws import mix
from tests.laws.test_batches import lives

POLICIES = [
    Policy(),
    Policy(look_days=0.25, offer_pause_days=1, offer_repeat_days=3, score_change=0.02),
    Policy(medium=0.3, high=0.5, warn_at="high", rise=0.1, lapsed_days=30, score_change=0.3),
]


def only_what_decides(rows: Iterable[Row]) -> list[Row]:
    """Without events that are no decision points: nothing is known between two of them but time."""
    kept = [
        row for row in rows if not row.value or (b'"view"' not in row.value and b'"search"' not in row.value)
    ]
    return [
        row for row in kept if not row.value or (b'"use"' not in row.value and b'"contact"' not in row.value)
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_looking_ahead_says_the_same_as_looking_at_every_instant_of_the_grid(policy: Policy) -> None:
    rows = only_what_decides(mix.shop(only=PURCHASES, history_days=20).rows)
    ahead = Application((PURCHASES,), policy=policy).run(rows)
    everywhere = Application((PURCHASES,), policy=policy)
    everywhere.engine.together = False
    everywhere.engine._look_far = lambda lives: None  # type: ignore[method-assign]
    everywhere.run(rows)
    assert ahead.by_customer() == everywhere.by_customer()
    assert ahead.counts["look",] < 0.7 * everywhere.counts["look",]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(lives(), st.sampled_from(POLICIES))
def test_no_history_is_found_in_which_looking_at_every_instant_says_more(log: Log, policy: Policy) -> None:
    rows = only_what_decides(log.rows)
    ahead = Application((PURCHASES,), policy=policy).run(rows)
    everywhere = Application((PURCHASES,), policy=policy)
    everywhere.engine.together = False
    everywhere.engine._look_far = lambda lives: None  # type: ignore[method-assign]
    everywhere.run(rows)
    assert ahead.by_customer() == everywhere.by_customer()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_every_look_that_is_left_out_would_have_changed_nothing(policy: Policy, only: str | None) -> None:
    inputs = (only,) if only else INPUTS
    application = Application(inputs, policy=policy, feeds=Feeds(enabled=False))
    engine = application.engine
    engine.together = False
    plan = engine._look_far
    left_out = 0

    def looked(lives: Any) -> None:
        nonlocal left_out
        lives = list(lives)
        plan(lives)
        for life in lives:
            if not life.quiet or not life.standing.look:
                continue
            # Until the next event, or a deadline of another kind: then one looks ahead again.
            ends = [after for _, _, after, _ in life.quiet[1:]] + [life.standing.look]
            for (customer, cold, after, soon), end in zip(life.quiet, ends, strict=True):
                until = min(end, life.standing.look, life.standing.complaint_due or end)
                instants = [soon] if soon else []
                at = engine._grid.next(customer.last_decisive, life.stagger, after)
                while at < until:
                    instants.append(at)
                    at = engine._grid.next(customer.last_decisive, life.stagger, at)
                for at in instants:
                    if at < until:
                        left_out += 1
                        if left_out % 7:  # a seventh of them will do
                            continue
                        known = life.cold if cold is None else cold
                        assert_nothing_to_say(life, customer, known, at)

    def assert_nothing_to_say(life: _Life, customer: Any, cold: Any, at: int) -> None:
        copied = copy(customer)
        copied.standing = copy(life.standing)
        alone = _Life(life.key, None, copied, cold, life.stagger)
        steps = engine._decide(alone, at, "live", _Cause(0, {}, "", -1, None, False), Counter(), silent=True)
        try:
            ask = next(steps)
            while True:
                ask = steps.send(engine._score([ask])[0])
        except StopIteration:
            pass
        assert alone.drafts == []
        assert alone.standing == life.standing

    engine._look_far = looked  # type: ignore[method-assign]
    application.run(mix.shop(only=only, history_days=20).rows)
    assert left_out > 1_000


def test_a_silent_customer_is_looked_at_at_least_once_in_seven_days_until_it_has_lapsed() -> None:
    """So that a new policy reaches everybody."""
    log = Log(only=PURCHASES)
    start = START
    log.purchase("ann", start)
    log.purchase("ann", start + 10 * DAY)
    application = Application((PURCHASES,))
    looks = []
    for day in range(11, 200):
        log.tick(start + day * DAY)
        application.run(log.rows)
        looks.append(application.customer("ann").standing.look)
    assert all(
        look - (start + day * DAY) <= 8 * DAY for day, look in zip(range(11, 200), looks, strict=True) if look
    )
