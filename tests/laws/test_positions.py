"""Every alert says what it rests on: whoever applies exactly the records up to its position decides the same."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import pytest

from alerts.policy import Feeds
from alerts.reasons import Evidence, reasons
from features import matrix
from features.cold import Cold
from features.customer import EMPTY_COLD, Customer, apply
from features.shop import Calendar, Shop
from models.churn import RhythmScore
from models.snapshot import Prior
from streams.alerts import Alert
from streams.codec import Decoded, Item
from streams.topics import INPUTS, PURCHASES
from tests.application import Application, Log, Row, Seen, day, reread
from tests.laws import mix

OVERDUE = 48.0


def replayed(found: Mapping[str, Sequence[Decoded]]) -> tuple[Customer, Cold]:
    """The customer after these records, topic after topic: another order than that of their arrival."""
    customer, cold = Customer(), EMPTY_COLD
    calendar = Calendar(Shop())
    for topic in sorted(found, reverse=True):
        for item in found[topic]:
            applied = apply(customer, cold, item, INPUTS.index(topic), calendar)
            customer, cold = applied.customer, applied.cold
    return customer, cold


def check(application: Application, read: Sequence[tuple[Row, Item]], seen: Seen) -> bool:
    """Whether the alert's score and reasons follow from its position; False where it has no score."""
    alert = seen.alert
    customer, cold = replayed(reread(read, alert.position, alert.customer))
    if not customer.orders:
        assert alert.churn_probability is None
        return False
    x = matrix.inputs([customer], [alert.decided_at], OVERDUE)
    model = RhythmScore(Prior(), application.policy.horizon_days)
    scores = model.score(x)
    assert alert.churn_probability == pytest.approx(float(scores.churn[0]), abs=2e-6), seen.step
    if alert.kind == "churn":
        contributions = tuple(float(row[0]) for row in scores.contributions)
        base = float(scores.base[0])
        expected = reasons(
            Evidence(
                customer,
                cold,
                alert.decided_at,
                x,
                model.groups,
                contributions,
                base,
                model.usual,
                "statistical",
                OVERDUE,
            )
        )
        assert [(r.feature, r.text) for r in alert.reasons] == [(r.feature, r.text) for r in expected]
        for told, found in zip(alert.reasons, expected, strict=True):
            assert told.contribution == pytest.approx(found.contribution, abs=2e-6)
            assert told.value == pytest.approx(found.value, abs=2e-6)
            assert told.usual == pytest.approx(found.usual, abs=2e-6)
    return True


def decoded(application: Application, rows: Sequence[Row]) -> Sequence[tuple[Row, Item]]:
    return [(row, application.codec.decode(row)) for row in rows]


@functools.cache
def applied(topics: tuple[str, ...], batch: int) -> tuple[Application, Sequence[Row]]:
    log = mix.shop(7, only=topics[0] if len(topics) == 1 else None, history_days=15, inputs=topics)
    return Application(topics, batch=batch, limit=5, feeds=Feeds(enabled=False)).run(log.rows), log.rows


@pytest.mark.parametrize("batch", [3, 2000])
@pytest.mark.parametrize("topics", [(PURCHASES,), INPUTS], ids=["one topic", "all topics"])
def test_an_oracle_at_an_alerts_position_scores_the_same_for_the_same_reasons(
    topics: tuple[str, ...], batch: int
) -> None:
    application, rows = applied(topics, batch)
    read = decoded(application, rows)
    checked = sum(check(application, read, seen) for seen in application.seen())
    assert checked > 120
    withheld = {seen.withheld for seen in application.seen()}
    assert withheld >= {None, "history"}


def test_a_position_is_that_of_the_cause_and_not_the_end_of_the_batch() -> None:
    application, rows = applied(INPUTS, 2000)
    by_place = {(row.topic, row.offset): row for row in rows}
    caused = 0
    for seen in application.seen():
        alert = seen.alert
        if alert.cause_event is None:
            continue
        caused += 1
        events = [
            item
            for topic, offset in alert.position.items()
            if isinstance(item := application.codec.decode(by_place[topic, offset]), Decoded)
        ]
        assert (alert.customer, alert.cause_event) in {(item.customer, item.event.id) for item in events}
    assert caused > 50


def test_a_timers_position_includes_the_clock_record_that_moved_the_clock() -> None:
    application, rows = applied(INPUTS, 2000)
    ticks = {(row.topic, row.offset) for row in rows if row.key == b"clock"}
    timers = [seen.alert for seen in application.seen() if seen.alert.cause_event is None]
    live = [alert for alert in timers if not alert.history]
    assert len(live) > 20
    for alert in live:
        assert any(place in ticks for place in alert.position.items())


def test_with_one_topic_a_timers_position_is_its_clock_record() -> None:
    application, rows = applied((PURCHASES,), 2000)
    ticks = {row.offset for row in rows if row.key == b"clock"}
    timers = [seen.alert for seen in application.seen() if seen.alert.cause_event is None]
    fired = [alert for alert in timers if alert.position[PURCHASES] in ticks]
    silent = [seen.alert for seen in application.seen() if seen.withheld == "silent"]
    assert len(fired) > 20
    assert all(alert in fired or alert in silent for alert in timers)


def test_positions_never_go_back() -> None:
    application, _ = applied(INPUTS, 3)
    last: dict[str, dict[str, int]] = {}
    for seen in application.seen():
        before = last.get(seen.alert.customer, {})
        now = seen.alert.position
        assert all(now.get(topic, -1) >= offset for topic, offset in before.items())
        last[seen.alert.customer] = now


def test_sequences_count_and_decisions_never_go_back() -> None:
    application, _ = applied(INPUTS, 3)
    by_customer: dict[str, list[Alert]] = {}
    for seen in application.seen():
        by_customer.setdefault(seen.alert.customer, []).append(seen.alert)
    assert len(by_customer) > 15
    for mine in by_customer.values():
        assert [alert.sequence for alert in mine] == list(range(1, len(mine) + 1))
        instants = [alert.decided_at for alert in mine]
        assert instants == sorted(instants)


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_an_id_never_names_two_transitions(seed: int) -> None:
    log = mix.shop(seed, customers=20, days=60)
    application = Application(INPUTS, batch=7).run(log.rows)
    ids = [seen.alert.id for seen in application.seen()]
    assert len(ids) == len(set(ids))


def test_two_episodes_never_open_at_one_instant() -> None:
    """What arrives late is decided at the last instant decided; that instant names the episode."""
    log = Log(only=PURCHASES)
    log.purchase("ann", day(0))
    log.lost("ann", day(10))
    log.purchase("ann", day(9))  # arrives late and ends the episode at the instant of its opening
    log.lost("ann", day(9.5))  # would open another one
    log.tick(day(30))
    application = Application().run(log.rows)
    assert application.steps("ann")[:3] == ["churn.raised", "churn.resolved", "churn.raised"]
    first, resolved, second = application.seen("ann")[:3]
    assert first.alert.decided_at == resolved.alert.decided_at == first.alert.episode == day(10)
    assert day(10) < second.alert.episode < day(18), "at the next look"
    ids = [seen.alert.id for seen in application.seen()]
    assert len(ids) == len(set(ids))


def test_the_silent_decision_before_a_first_live_event_rests_on_the_records_before_it() -> None:
    log = Log(only=PURCHASES)
    log.purchase("ann", day(0), history=True)
    log.view("bob", day(99))
    log.survey("ann", day(100), 1.0)
    application = Application().run(log.rows)
    seen = application.seen("ann")
    assert seen[0].withheld == "silent"
    for one in seen:
        assert check(application, decoded(application, log.rows), one)
    assert seen[0].alert.position == {PURCHASES: 1}


def test_an_alert_continues_the_trace_of_the_event_that_caused_it_and_a_silence_has_none() -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    log = Log()
    log.purchase("ann", day(0))
    log.purchase("bob", day(0))
    lost = log.lost("ann", day(1))
    log.rows[-1] = lost._replace(headers=[("traceparent", trace)])
    log.tick(day(150))
    found = {}
    for batch in (1, 100):
        application = Application(batch=batch).run(log.rows)
        found[batch] = {
            seen.alert.id: dict(seen.message.headers).get("ce_traceparent") for seen in application.seen()
        }
    (told,) = (seen for seen in application.seen("ann") if seen.alert.cause_event)
    assert found[100][told.alert.id] == trace
    assert application.seen("bob")
    assert {mark for identity, mark in found[100].items() if identity != told.alert.id} == {None}
    assert found[1] == found[100]
