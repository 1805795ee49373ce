"""What profiles say of a customer's tier, and the measures that follow, are the same however topics interleave and
batches are cut."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.policy import DEFAULT_ACTIONS, Policy
from features.cold import tier
from features.shop import DAY, HOUR
from streams.codec import Decoded, Tick, Tombstone
from streams.topics import CONTACTS, CUSTOMERS, INPUTS, PURCHASES
from tests.application import START, Application, Log, Row
from tests.oracle import Cleared, Read, recompute

NAMES = ("ann", "bob")
POLICY = Policy(rise=0.8, actions={**DEFAULT_ACTIONS, "tier:gold": "visit", "medium.tier:silver": "write"})


@st.composite
def lives(draw: st.DrawFn) -> Log:
    """Profiles on two topics, late, sent again and cleared, among orders and complaints."""
    log = Log()
    hour = 0
    for _ in range(draw(st.integers(5, 40))):
        hour += draw(st.sampled_from([0, 0, 1, 24, 200, 600]))
        at = START + hour * HOUR - draw(st.sampled_from([0, 0, 1, 48])) * HOUR
        customer = draw(st.sampled_from(NAMES))
        what = draw(st.integers(0, 9))
        if what <= 3:
            log.profile(
                customer,
                at,
                draw(st.sampled_from(["gold", "silver", None])),
                identity=draw(st.sampled_from([None, None, "again"])),
                topic=draw(st.sampled_from([CUSTOMERS, CUSTOMERS, CONTACTS])),
            )
        elif what == 4:
            log.tombstone(customer)
        elif what == 5:
            log.lost(customer, at)
        elif what == 6:
            log.tick(START + hour * HOUR, INPUTS)
        else:
            log.purchase(customer, at)
    log.tick(START + hour * HOUR + 90 * DAY, INPUTS)
    return log


def told(application: Application, rows: list[Row], customer: str) -> dict[str, object]:
    """What the twin says of a customer."""
    read: list[Read | Cleared] = []
    for row in rows:
        item = application.codec.decode(row)
        if isinstance(item, Decoded) and item.customer == customer:
            read.append(Read(row.topic, row.offset, item))
        elif isinstance(item, Tombstone) and item.customer == customer:
            read.append(Cleared(row.topic))
    return recompute(read, START + 2_000 * DAY)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(lives(), st.sampled_from([1, 2, 5]), st.sampled_from([1, 3]))
def test_batches_make_no_difference_and_the_tier_is_what_was_read(log: Log, batch: int, limit: int) -> None:
    expected = Application(INPUTS, policy=POLICY).run(log.rows)
    other = Application(INPUTS, policy=POLICY, batch=batch, limit=limit).run(log.rows)
    assert other.cold == expected.cold
    assert list(other.messages) == list(expected.messages)
    assert other.partition == expected.partition
    for name in NAMES:
        assert tier(expected.habits(name)) == told(expected, log.rows, name)["tier"]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(lives(), st.integers(0, 2**32))
def test_how_topics_interleave_makes_no_difference_to_the_tier(log: Log, seed: int) -> None:
    random = Random(seed)
    codec = Application(INPUTS).codec
    # Without clock records, which would have the customers looked at in between.
    rows = [row for row in log.rows if not isinstance(codec.decode(row), Tick)]
    waiting = {
        topic: [row for row in rows if row.topic == topic] for topic in (CUSTOMERS, CONTACTS, PURCHASES)
    }
    order: list[Row] = []
    while topics := [topic for topic, left in waiting.items() if left]:
        order.append(waiting[random.choice(topics)].pop(0))
    one, other = Application(INPUTS, policy=POLICY).run(rows), Application(INPUTS, policy=POLICY).run(order)
    for name in NAMES:
        assert other.habits(name).tiers == one.habits(name).tiers
        assert tier(other.habits(name)) == told(other, order, name)["tier"]


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives(), st.integers(0, 2**32))
def test_a_redis_of_before_ends_where_it_would_have(log: Log, seed: int) -> None:
    cut = Random(seed).randrange(len(log.rows) + 1)
    expected = Application(INPUTS, policy=POLICY).run(log.rows)
    application = Application(INPUTS, policy=POLICY)
    stored = application.run(log.rows[:cut]).stored()
    application.run(log.rows)
    application.restore(stored)
    application.run(log.rows)
    assert application.cold == expected.cold
    assert application.partition.applied == expected.partition.applied
