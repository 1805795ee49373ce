"""Who is not heard of for long enough is kept no longer: a deadline like any other."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.forgotten import Retention
from alerts.partition import Partition
from features.customer import Customer
from features.shop import DAY, HOUR
from models.learning import Learning
from streams.codec import Decoded, Tick
from streams.message import unpack
from streams.topics import BROWSES, CUSTOMER_SCORES, PURCHASES
from tests.alerts.test_tally import recounted
from tests.application import START, Application, Log, day
from tests.observed import differences, observed
from tests.oracle import Keep, Read, accepted, recompute

NAMES = ("ann", "bob")
KEEP = Keep(prospects=30, lapsed=420)
RETENTION = Retention(30 * DAY, 420 * DAY)


@st.composite
def lives(draw: st.DrawFn) -> Log:
    """Customers and prospects in one topic, with long silences, late events and clock records anywhere."""
    log = Log(only=PURCHASES)
    hour = 0
    for _ in range(draw(st.integers(5, 40))):
        hour += draw(st.sampled_from([0, 1, 24, 200, 700, 2_000, 10_000]))
        at = START + hour * HOUR - draw(st.sampled_from([0, 0, 0, 30, 900])) * HOUR
        customer = draw(st.sampled_from(NAMES))
        what = draw(st.integers(0, 8))
        if what <= 3:
            log.tick(START + hour * HOUR)
        elif what <= 5:
            log.view(customer, at, "tea")
        elif what == 6:
            log.complaint(customer, at)
        else:
            log.purchase(customer, at, category="tea")
    log.tick(START + (hour + draw(st.sampled_from([0, 2_000, 20_000]))) * HOUR)
    return log


def read_by(application: Application, log: Log, customer: str) -> list[Read | int]:
    """What the log holds of one customer, and where it moves the clock to."""
    found: list[Read | int] = []
    clock = 0
    for row in log.rows:
        item = application.codec.decode(row)
        if isinstance(item, Tick) and item.at > clock:
            clock = item.at
            found.append(clock)
        elif isinstance(item, Decoded) and item.customer == customer:
            found.append(Read(row.topic, row.offset, item))
    return found


def states(application: Application) -> dict[bytes, Customer]:
    """All but how early the stored deadlines are."""
    found = {}
    for key in application.hot:
        customer = application.customer(key)
        standing = msgspec.structs.replace(customer.standing, due=0)
        found[key] = msgspec.structs.replace(customer, standing=standing)
    return found


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives(), st.sampled_from([1, 3]))
def test_who_is_kept_is_who_the_naive_twin_keeps_whatever_the_batches(log: Log, batch: int) -> None:
    application = Application(retention=RETENTION).run(log.rows)
    at = day(10_000)
    for name in NAMES:
        records = read_by(application, log, name)
        kept = bool(accepted(records, keep=KEEP))
        assert (name.encode() in application.hot) == kept, name
        if kept:
            seen = observed(application.customer(name), application.habits(name), at)
            assert differences(seen, recompute(records, at, keep=KEEP)) == {}
    assert application.partition.tally == recounted(application)
    assert not application.cold.keys() - application.hot.keys()
    assert not application.due.keys() - application.hot.keys()
    other = Application(retention=RETENTION, batch=batch, limit=batch).run(log.rows)
    assert states(other) == states(application)
    assert other.cold == application.cold
    assert list(other.messages) == list(application.messages)
    assert other.partition == application.partition


def test_a_prospect_goes_when_the_time_has_come_and_not_before() -> None:
    log = Log(only=BROWSES)
    log.view("ann", day(0), "tea")
    log.view("ann", day(10), "tea")
    log.tick(day(40) - 1)
    application = Application((BROWSES,), retention=RETENTION).run(log.rows)
    assert b"ann" in application.hot
    log.tick(day(40))
    application.run(log.rows)
    assert not application.hot
    assert not application.cold
    assert not application.due
    assert application.counts["erased", "retention"] == 1


def test_who_lapsed_goes_with_their_score_and_comes_back_as_somebody_new() -> None:
    log = Log(only=PURCHASES)
    for k in range(6):
        log.purchase("ann", day(10 * k), category="tea")
    for k in range(1, 60):
        log.tick(day(10 * k))
    application = Application(retention=RETENTION).run(log.rows)
    assert b"ann" not in application.hot
    assert application.steps("ann")[-1] == "churn.expired", "what was open has ended before"
    last = [message for message in application.messages if message.topic == CUSTOMER_SCORES][-1]
    assert (last.key, last.value) == (b"ann", None)
    log.purchase("ann", day(600))
    log.tick(day(601))
    fresh = Log(only=PURCHASES)
    fresh.tick(day(590))
    fresh.purchase("ann", day(600), identity=f"e{log._ids}")
    fresh.tick(day(601))
    new = Application(retention=RETENTION).run(fresh.rows)
    assert application.run(log.rows).hot == new.hot
    assert application.customer("ann").orders == 1


def test_a_label_is_never_lost_to_it() -> None:
    """As long as the settings allow it to be set, everything has matured by then."""
    learning = Learning(snapshot_days=7, horizons=(56.0,))
    log = Log(only=PURCHASES)
    for k in range(6):
        log.purchase("ann", day(10 * k))
    for k in range(1, 60):
        log.tick(day(10 * k))
    kept = Application(learning=learning).run(log.rows)
    gone = Application(learning=learning, retention=Retention(0, 422 * DAY)).run(log.rows)
    assert b"ann" not in gone.hot
    assert gone.examples() == kept.examples()
    assert gone.examples()


def test_what_waiting_costs_follows_what_is_due() -> None:
    """Each event puts the end off; the deadline finds out when it comes, and is not moved for each event."""
    log = Log(only=BROWSES)
    for k in range(120):
        log.view("ann", day(k), "tea")
        log.tick(day(k))
    application = Application((BROWSES,), retention=RETENTION).run(log.rows)
    assert application.counts["fired",] <= 5
    assert sum(b"ann" in turn.deadlines for turn in application.turns) <= 5


def test_under_the_wall_clock_the_sweep_finds_them() -> None:
    log = Log()
    log.view("ann", day(0), "tea")
    application = Application(clock="wall", inputs=(BROWSES,), retention=RETENTION).run(log.rows)
    application.sweep(day(29))
    assert b"ann" in application.hot
    application.sweep(day(31))
    assert not application.hot
    assert not application.due


def test_a_retention_that_is_set_later_reaches_those_who_are_silent_already() -> None:
    log = Log(only=PURCHASES)
    log.view("ann", day(0), "tea")
    log.purchase("bob", day(0))
    log.tick(day(500))
    application = Application().run(log.rows)
    assert application.hot.keys() == {b"ann", b"bob"}
    application.retention = RETENTION
    application.start()
    turn = application.engine.review(application.partition, application.hot, application.cold)
    application._commit(turn)
    assert application.due[b"ann"] == day(30)
    log.tick(day(501))
    application.run(log.rows)
    assert not application.hot
    assert not application.due
    # And one that is taken back reaches those who are still there.
    log.purchase("cas", day(502))
    application.run(log.rows)
    assert application.customer("cas").standing.expire_due == day(502 + 420)
    application.retention = Retention()
    application.start()
    application._commit(application.engine.review(application.partition, application.hot, application.cold))
    assert application.customer("cas").standing.expire_due == 0


def test_a_partition_remembers_which_retention_its_customers_have() -> None:
    assert str(RETENTION) != str(Retention(1, 2))
    assert str(Retention()) == Partition().retention


def test_nothing_leaves_of_a_prospect_of_whom_no_score_was_written() -> None:
    log = Log(only=BROWSES)
    log.view("ann", day(0))
    log.tick(day(31))
    application = Application((BROWSES,), retention=RETENTION).run(log.rows)
    assert not application.hot
    assert [unpack(packed) for packed in application.out] == []
