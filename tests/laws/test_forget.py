"""Who is forgotten is gone as if nothing had been read of them, and stays so however the log is read again."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.policy import Policy
from features.customer import Customer, pack_hot
from features.shop import DAY, HOUR
from streams import events as ev
from streams.codec import Decoded, encode
from streams.topics import (
    ALERTS,
    BROWSES,
    CONTACTS,
    CUSTOMER_SCORES,
    CUSTOMERS,
    EXAMPLES,
    INPUTS,
    PURCHASES,
)
from tests.alerts.test_tally import recounted
from tests.application import START, Application, Crash, Log, day
from tests.laws import mix
from tests.observed import differences, observed
from tests.oracle import Read, accepted, recompute

SECRET = "a secret of this test only"
NAMES = ("ann", "bob", "cas")
POLICY = Policy(rise=0.8, deliver_per_minute=1)
"""A ceiling so low that it bites: whoever is forgotten has taken a place all the same."""


@st.composite
def lives(draw: st.DrawFn) -> Log:
    """A few customers in one topic, often late, sent again, forgotten and back."""
    log = Log(only=PURCHASES)
    hour = 0
    for _ in range(draw(st.integers(5, 50))):
        hour += draw(st.sampled_from([0, 0, 1, 4, 24, 200, 800]))
        at = START + hour * HOUR - draw(st.sampled_from([0, 0, 0, 1, 30, 400])) * HOUR
        customer = draw(st.sampled_from(NAMES))
        what = draw(st.integers(0, 12))
        if what <= 2:
            log.tick(START + hour * HOUR)
        elif what <= 6:
            identity = draw(st.sampled_from([None, None, "again"]))
            category = draw(st.sampled_from(["tea", None]))
            log.purchase(customer, at, category=category, identity=identity)
        elif what == 7:
            log.cart(customer, at, "s1")
        elif what == 8:
            log.complaint(customer, at)
        elif what == 9:
            log.view(customer, at, "tea")
        elif what == 10:
            log.raw(PURCHASES, customer.encode(), b'{"broken')
        else:
            log.forget(customer, at, identity=draw(st.sampled_from([None, None, "asked"])))
    log.tick(START + (hour + draw(st.sampled_from([0, 100, 10_000]))) * HOUR)
    return log


def states(application: Application) -> dict[bytes, Customer]:
    """All but how early the stored deadlines are: that depends on the commits."""
    found = {}
    for key in application.hot:
        customer = application.customer(key)
        found[key] = msgspec.structs.replace(
            customer, standing=msgspec.structs.replace(customer.standing, due=0)
        )
    return found


def read_by(application: Application, log: Log, customer: str) -> list[Read]:
    """What the log holds of one customer."""
    found = []
    for row in log.rows:
        item = application.codec.decode(row)
        if isinstance(item, Decoded) and item.customer == customer:
            found.append(Read(row.topic, row.offset, item))
    return found


def check_against_the_oracle(application: Application, log: Log, known: dict[str, int] | None = None) -> None:
    at = day(2_000)
    for name in NAMES:
        records = read_by(application, log, name)
        until = (known or {}).get(name, 0)
        alive = bool(accepted(records, until))
        assert (name.encode() in application.hot) == alive, name
        if alive:
            seen = observed(application.customer(name), application.habits(name), at)
            assert differences(seen, recompute(records, at, forgotten=until)) == {}


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives(), st.sampled_from([1, 2, 5]), st.sampled_from([1, 3]))
def test_what_is_known_is_what_was_read_since_and_batches_make_no_difference(
    log: Log, batch: int, limit: int
) -> None:
    expected = Application(policy=POLICY, secret=SECRET).run(log.rows)
    check_against_the_oracle(expected, log)
    assert expected.partition.tally == recounted(expected)
    assert not expected.cold.keys() - expected.hot.keys()
    assert not expected.due.keys() - expected.hot.keys()
    other = Application(policy=POLICY, secret=SECRET, batch=batch, limit=limit).run(log.rows)
    assert states(other) == states(expected)
    assert other.cold == expected.cold
    assert list(other.messages) == list(expected.messages)
    assert other.partition == expected.partition
    assert other.gone == expected.gone


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives(), st.integers(0, 2**32), st.booleans(), st.sampled_from([1, 4]))
def test_a_redis_of_before_or_after_ends_where_it_would_have(
    log: Log, seed: int, carried: bool, batch: int
) -> None:
    """With the list carried forward, and without it."""
    random = Random(seed)
    expected = Application(secret=SECRET, batch=batch).run(log.rows)
    application = Application(secret=SECRET, batch=batch)
    cut = random.randrange(len(log.rows) + 1)
    stored, gone = application.run(log.rows[:cut]).stored(), dict(application.gone)
    application.run(log.rows)
    if not carried:
        application.gone = gone
    application.restore(stored)
    application.run(log.rows)
    check_against_the_oracle(application, log)
    assert states(application) == states(expected)
    assert application.cold == expected.cold
    assert application.partition.applied == expected.partition.applied
    assert application.partition.examples == expected.partition.examples
    assert application.gone == expected.gone


@settings(derandomize=True, max_examples=15, deadline=None)
@given(lives(), st.integers(0, 2**32))
def test_a_worker_that_dies_at_any_commit_ends_where_it_would_have(log: Log, seed: int) -> None:
    random = Random(seed)
    died = set(random.sample(range(1, 40), 8))
    how: list[Crash] = ["before", "after"]
    expected = Application(secret=SECRET, batch=3).run(log.rows)
    application = Application(
        secret=SECRET, batch=3, crash=lambda commit: random.choice(how) if commit in died else None
    )
    application.run_through_crashes(log.rows)
    assert states(application) == states(expected)
    assert list(application.messages) == list(expected.messages)
    assert application.gone == expected.gone


@settings(derandomize=True, max_examples=25, deadline=None)
@given(lives())
def test_read_from_the_beginning_nothing_is_said_of_what_is_forgotten_by_then(log: Log) -> None:
    first = Application(secret=SECRET).run(log.rows)
    again = Application(secret=SECRET)
    again.gone = dict(first.gone)
    again.start()
    again.run(log.rows)
    assert states(again) == states(first)
    assert again.partition.examples >= first.partition.examples
    forgotten = again.engine.forgotten
    assert forgotten is not None
    for seen in again.seen():
        entry = forgotten.of(seen.alert.customer.encode())
        assert entry is None or seen.alert.decided_at > entry.until


@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_everybody_else_is_untouched_byte_for_byte(only: str | None) -> None:
    plain, log = mix.shop(only=only), mix.shop(only=only)
    inputs = (only,) if only else INPUTS
    # In the place of a record that nobody could read, so that all offsets are the same.
    where = next(
        n for n, row in enumerate(log.rows) if n > 400 and row.value == b"{" and row.topic != CUSTOMERS
    )
    at = START + 25 * DAY
    event = ev.Forget(id="f", customer="c7", time=ev.to_datetime(at))
    log.rows[where] = log.rows[where]._replace(key=b"c7", value=encode(event))
    with_all = Application(inputs, secret=SECRET).run(plain.rows)
    application = Application(inputs, secret=SECRET).run(log.rows)
    assert with_all.customer("c7").orders > application.customer("c7").orders
    for kept, whole in (
        (application.hot, with_all.hot),
        (application.cold, with_all.cold),
        (application.due, with_all.due),
    ):
        assert {k: v for k, v in kept.items() if k != b"c7"} == {k: v for k, v in whole.items() if k != b"c7"}
    mine, theirs = application.by_customer(), with_all.by_customer()
    for key in theirs.keys() - {b"c7", None}:
        assert mine[key] == theirs[key], key


def test_who_comes_back_is_a_new_customer() -> None:
    log, fresh = Log(only=PURCHASES), Log(only=PURCHASES)
    for k in range(8):
        log.purchase("ann", day(7 * k))
    log.tick(day(80))
    log.forget("ann", day(80))
    back = [day(81), day(90), day(97)]
    for at in back:
        log.purchase("ann", at, identity=f"n{at}")
        fresh.purchase("ann", at, identity=f"n{at}")
    log.tick(day(300))
    fresh.tick(day(80))
    fresh.tick(day(300))
    application, new = Application(secret=SECRET).run(log.rows), Application(secret=SECRET).run(fresh.rows)
    customer = application.customer("ann")
    assert customer.standing.forgotten == day(80)
    customer.standing.forgotten, customer.standing.request = 0, b""
    assert pack_hot(customer) == new.hot[b"ann"]
    assert application.cold == new.cold
    assert application.steps("ann") == new.steps("ann")


def test_of_several_topics_whatever_is_read_first_the_forgotten_stay_away() -> None:
    """The request is on one topic, what it is about on others, some of it later and some of it read later."""
    log = Log()
    log.purchase("ann", day(1), identity="p1")
    log.view("ann", day(2), "tea")
    log.forget("ann", day(3))
    log.view("ann", day(2.5), "milk")
    log.purchase("ann", day(2.9), identity="p2")
    log.view("ann", day(4), "soap")
    log.purchase("ann", day(5), identity="p3")
    by_topic = {topic: [row for row in log.rows if row.topic == topic] for topic in INPUTS}
    known = Application(INPUTS, secret=SECRET).run(log.rows).gone
    for order in (
        [CONTACTS, PURCHASES, BROWSES],
        [PURCHASES, BROWSES, CONTACTS],
        [BROWSES, CONTACTS, PURCHASES],
    ):
        application = Application(INPUTS, secret=SECRET)
        application.gone = dict(known)
        application.start()
        application.run([row for topic in order for row in by_topic[topic]])
        customer = application.customer("ann")
        assert (customer.events, customer.orders, customer.views) == (2, 1, 1), order
        assert application.habits("ann").browsed.keys() == {"soap"}


def test_what_was_read_before_the_request_goes_even_where_it_is_newer() -> None:
    log = Log()
    log.purchase("ann", day(3))
    log.forget("ann", day(1))
    log.purchase("ann", day(2))
    application = Application(INPUTS, secret=SECRET).run(log.rows)
    assert b"ann" not in application.hot
    assert application.counts["suppressed",] == 1


def test_a_second_request_of_who_came_back_is_heard_whatever_its_date() -> None:
    log = Log(only=PURCHASES)
    log.purchase("ann", day(1.6))
    log.forget("ann", day(1), identity="first")
    log.purchase("ann", day(2))
    log.forget("ann", day(1), identity="first")
    application = Application(secret=SECRET).run(log.rows)
    assert application.customer("ann").orders == 1, "sent twice"
    log.forget("ann", day(1), identity="second")
    assert b"ann" not in application.run(log.rows).hot


def test_tombstones_leave_and_what_waits_of_the_customer_does_not() -> None:
    log = Log()
    for name in ("ann", "bob"):
        for k in range(6):
            log.purchase(name, day(5 * k), category="tea")
    log.raw(PURCHASES, b"ann", b"{broken")
    log.raw(PURCHASES, b"bob", b"{broken")
    log.tick(day(120), INPUTS)
    log.forget("ann", day(120))
    application = Application(INPUTS, secret=SECRET)
    before = application.run(log.rows[:-1])
    assert before.seen("ann", delivered=True)
    labels = len(before.examples())
    application.run(log.rows)
    left = [message for message in application.messages if message.key == b"ann"]
    assert [(message.topic, message.value) for message in left] == [
        (CUSTOMER_SCORES, None),
        (CUSTOMERS, None),
    ]
    assert not any(b"ann" in (message.value or b"") for message in application.messages)
    assert len(application.examples()) == labels, "what has matured names nobody"
    assert any(message.topic == ALERTS for message in application.messages), "bob's"
    assert len(application.dead_letters()) == 1, "bob's"


def test_without_a_secret_a_request_is_kept_with_the_dead_letters_to_be_replayed() -> None:
    log = Log(only=PURCHASES)
    log.purchase("ann", day(0))
    log.forget("ann", day(1))
    application = Application().run(log.rows)
    assert application.customer("ann").orders == 1
    (letter,) = application.dead_letters()
    assert dict(letter.headers)["churnwatch-error"] == b"not_applicable"
    assert b"privacy.key is not set" in dict(letter.headers)["churnwatch-message"]


def test_examples_name_nobody() -> None:
    application = Application(secret=SECRET).run(mix.shop(only=PURCHASES).rows)
    examples = [message for message in application.messages if message.topic == EXAMPLES]
    assert examples
    for message in examples:
        assert message.key is None
        assert message.headers == ()
        data = msgspec.json.decode(message.value or b"")
        texts = [value for value in data.values() if isinstance(value, str)]
        assert texts == [data["features"]], "one text, and it is a version"


def test_the_same_labels_have_the_same_numbers_after_the_list_has_kept_some_from_being_learned_twice() -> (
    None
):
    log = Log(only=PURCHASES)
    for k in range(12):
        log.purchase("ann", day(7 * k))
        log.purchase("bob", day(7 * k))
        log.tick(day(7 * k))
    log.tick(day(200))
    log.forget("ann", day(200))
    log.purchase("bob", day(201))
    log.tick(day(400))
    first = Application(secret=SECRET).run(log.rows)
    again = Application(secret=SECRET)
    again.gone = dict(first.gone)
    again.start()
    again.run(log.rows)
    request = next(n for n, row in enumerate(log.rows) if b'"forget"' in (row.value or b""))
    before = Application(secret=SECRET).run(log.rows[:request]).partition.examples
    after = [e for e in first.examples() if e.sequence > before]
    assert after
    assert [e for e in again.examples() if e.sequence > before] == after
