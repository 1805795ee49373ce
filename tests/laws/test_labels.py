"""A label waits until its horizon has passed, is judged by the times of events, and leaves once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import ledger, matrix
from features.customer import EMPTY_COLD, Customer, apply
from features.shop import DAY, Calendar, Shop
from models.learning import Learning
from streams import events as ev
from streams.codec import Decoded, Item, Tick
from streams.examples import Example, UnknownExample, decode_example, example_message
from streams.topics import INPUTS, PURCHASES
from tests.application import START, Application, Log, Row, day
from tests.laws import mix
from tests.oracle import Read, accepted, is_purchase

HORIZON = 28 * DAY


class Truth(NamedTuple):
    """What the naive twin says of one snapshot."""

    at: int
    churned: bool
    inputs: tuple[float, ...]


def customer_of(read: Sequence[Decoded]) -> Customer:
    customer, cold, calendar = Customer(), EMPTY_COLD, Calendar(Shop())
    for item in read:
        applied = apply(customer, cold, item, INPUTS.index(PURCHASES), calendar)
        customer, cold = applied.customer, applied.cold
    return customer


def naive(items: Sequence[Item], instants: Sequence[int], horizon: int, *, uses: bool = False) -> list[Truth]:
    """Snapshots at these instants of one customer, with what became of it: each is taken by the first record after
    the first purchase that says that the instant has passed, each label judged when the clock has passed its horizon."""
    found = []
    for at in instants:
        before: list[Decoded] = []
        until: list[Read] = []
        clock, taken = 0, False
        for item in items:
            if isinstance(item, Tick):
                clock = max(clock, item.at)
            buyer = any(is_purchase(earlier) for earlier in before)
            taken = taken or (buyer and (clock >= at or (isinstance(item, Decoded) and item.at > at)))
            if clock >= at + horizon:
                break
            if isinstance(item, Decoded):
                until.append(Read(PURCHASES, item.offset, item))
                if not taken:
                    before.append(item)
        else:
            continue
        customer = customer_of(before)
        assert customer.orders
        known = accepted(until)
        active = [
            item.at
            for item in known
            if at < item.at <= at + horizon
            and (is_purchase(item) or (uses and isinstance(item.event, ev.Use)))
        ]
        lost = [
            item.at
            for item in known
            if at < item.at <= at + horizon and isinstance(item.event, ev.CustomerLost)
        ]
        inputs = np.array(matrix.inputs([customer], [at], 48.0))[:, 0].astype("<f4")
        churned = not active or bool(lost and min(lost) < min(active))
        found.append(Truth(at, churned, tuple(float(value) for value in inputs)))
    return found


def told(examples: Sequence[Example]) -> list[Truth]:
    return [Truth(example.at, example.churned, example.inputs) for example in examples]


def life(seed: int, days: int = 200) -> Log:
    return mix.shop(seed, customers=1, days=days, only=PURCHASES)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 2000]))
def test_a_label_is_what_the_naive_twin_finds_in_the_log(seed: int, batch: int) -> None:
    log = life(seed)
    application = Application(batch=batch, learning=Learning(snapshot_days=28.0)).run(log.rows)
    items = [application.codec.decode(row) for row in log.rows]
    examples = application.examples()
    assert told(examples) == naive(items, [example.at for example in examples], HORIZON)
    for example in examples:
        assert example.due == example.at + HORIZON <= application.partition.clock, "never early"
    instants = [example.at for example in examples]
    assert all(later - earlier == 28 * DAY for earlier, later in pairwise(instants))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_with_several_horizons_each_has_its_own_label(seed: int) -> None:
    log = life(seed)
    application = Application(learning=Learning(snapshot_days=20.0, horizons=(7.0, 60.0))).run(log.rows)
    items = [application.codec.decode(row) for row in log.rows]
    for days in (7.0, 28.0, 60.0):
        examples = [e for e in application.examples() if e.horizon_days == days]
        assert told(examples) == naive(items, [e.at for e in examples], round(days * DAY)), days


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_where_use_counts_as_activity_it_ends_a_silence(seed: int) -> None:
    log = life(seed)
    random = Random(seed)
    for number in range(30):
        at = START + random.randrange(230) * DAY
        use = ev.Use(id=f"use{number}", customer="c0", time=ev.to_datetime(at))
        log.rows.insert(
            random.randrange(len(log.rows)), Row(PURCHASES, 0, 0, log.rows[0].timestamp, b"c0", ev_bytes(use))
        )
    rows = [row._replace(offset=offset) for offset, row in enumerate(log.rows)]
    application = Application(learning=Learning(activity="purchase_or_use")).run(rows)
    items = [application.codec.decode(row) for row in rows]
    examples = application.examples()
    assert told(examples) == naive(items, [e.at for e in examples], HORIZON, uses=True)


def ev_bytes(event: ev.Event) -> bytes:
    log = Log(PURCHASES)
    value = log.add(event).value
    assert value is not None
    return value


@pytest.mark.parametrize("batch", [1, 7, 2000])
def test_examples_are_numbered_without_gaps_whatever_the_batches(batch: int) -> None:
    log = mix.shop(3, only=PURCHASES, days=150)
    application = Application(batch=batch).run(log.rows)
    examples = application.examples()
    assert len(examples) > 40
    assert [example.sequence for example in examples] == list(range(1, len(examples) + 1))
    assert {example.partition for example in examples} == {0}
    assert examples == Application().run(log.rows).examples()
    assert {example.churned for example in examples} == {True, False}
    assert application.partition.examples == len(examples)


def test_a_kill_at_any_commit_gives_the_same_examples() -> None:
    log = mix.shop(4, only=PURCHASES, customers=8, days=120)
    straight = Application(batch=5).run(log.rows)
    random = Random(1)
    killed = Application(
        batch=5,
        crash=lambda _: random.choice((*[None] * 12, "before", "after")),
    )
    assert killed.run_through_crashes(log.rows) > 5
    assert killed.examples() == straight.examples()
    assert killed.examples()


def test_a_purchase_after_the_horizon_does_not_undo_a_label() -> None:
    pending = (ledger.Pending(day(10), 0, 0, b""),)
    after = ledger.marked(pending, day(10) + HORIZON + 1)
    assert after[0].churned(HORIZON)
    assert not ledger.marked(after, day(10) + HORIZON)[0].churned(HORIZON), (
        "one that arrived later and was earlier"
    )


def test_whoever_says_that_they_leave_has_left_whatever_they_bought_afterwards() -> None:
    pending = (ledger.Pending(day(10), 0, 0, b""),)
    lost = ledger.settled(pending, day(12))
    assert ledger.marked(lost, day(13))[0].churned(HORIZON)
    assert not ledger.marked(lost, day(11))[0].churned(HORIZON), "who bought before it did not leave silently"


def test_who_lapsed_by_time_is_no_example_until_the_next_purchase() -> None:
    log = Log(PURCHASES)
    log.purchase("ann", day(0))
    for number in range(1, 500, 5):
        log.tick(day(number))
    application = Application(learning=Learning(snapshot_days=28.0)).run(log.rows)
    lapsed = application.examples()
    assert len(lapsed) == 13
    assert max(example.at for example in lapsed) <= day(365)
    assert application.due == {}
    log.purchase("ann", day(500))
    for number in range(505, 600, 5):
        log.tick(day(number))
    assert len(application.run(log.rows).examples()) > len(lapsed)


def test_without_learning_nothing_waits() -> None:
    log = mix.shop(3, only=PURCHASES, customers=5)
    application = Application(learning=Learning(enabled=False)).run(log.rows)
    assert application.examples() == []
    assert all(not application.habits(key).pending for key in application.hot)


@given(st.integers(0, 2**61), st.integers(1, 2**45), st.integers(1, 400 * DAY))
def test_the_next_snapshot_is_the_next_on_the_customers_clock(after: int, stagger: int, step: int) -> None:
    stagger = stagger % step + 1
    found = ledger.following(after, stagger, step)
    assert after < found <= after + step
    assert (found - stagger) % step == 0


@given(st.integers(1, 3650 * 24), st.integers(1, 3650 * 24), st.integers(1, 400 * 24))
def test_never_more_snapshots_wait_than_there_is_room_for(hours: int, more: int, most: int) -> None:
    hour = DAY // 24
    horizon, longest = hours * hour, max(hours, more) * hour
    step = ledger.step(horizon, longest, most * hour)
    assert step <= max(most * hour, longest / (ledger.MOST - 2))
    assert longest // step + 1 <= ledger.MOST


def test_an_example_travels_as_it_is_and_one_of_a_newer_release_is_refused() -> None:
    example = Example(
        partition=3, sequence=9, at=day(1), due=day(29), horizon_days=28.0, churned=True,
        inputs=(1.5, 0.25), features="2",
    )  # fmt: skip
    message = example_message(example)
    assert decode_example(message.value) == example
    newer = (message.value or b"").replace(b'"version":1', b'"version":2')
    with pytest.raises(UnknownExample, match="run the newer release"):
        decode_example(newer)
    with pytest.raises(UnknownExample, match="no example"):
        decode_example(b"{}")
