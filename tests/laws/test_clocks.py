"""Time is what the log says (record clock) or what has been read (wall clock), and nothing else."""

from __future__ import annotations

from random import Random

import pytest

from alerts.policy import Feeds, Policy
from features.shop import DAY, HOUR
from streams.codec import Tick
from streams.topics import BROWSES, COMPLAINTS, INPUTS, PURCHASES
from tests.application import MINUTE, START, Application, Crash, Crashed, Log, Row, day, hours, only
from tests.laws import mix

TWO = (PURCHASES, BROWSES)
UNWATCHED = Feeds(enabled=False)


# ---- record clock


def test_a_partitions_clock_is_the_least_of_its_topics_newest_clock_records() -> None:
    log = Log()
    application = Application(TWO)

    def clock() -> int:
        return application.run(log.rows).partition.clock

    log.tick(day(5), [PURCHASES])
    assert clock() == 0
    log.tick(day(3), [BROWSES])
    assert clock() == day(3)
    log.tick(day(4), [BROWSES])
    assert clock() == day(4)
    log.tick(day(9), [BROWSES])
    assert clock() == day(5)
    log.tick(day(6), [PURCHASES])
    assert clock() == day(6)


def test_nothing_fires_before_every_topic_has_a_clock_record() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(200), [PURCHASES])
    application = Application(TWO).run(log.rows)
    assert application.counts["fired",] == 0
    assert application.due
    log.tick(day(100), [BROWSES])
    application.run(log.rows)
    assert application.counts["fired",] > 10
    assert max(seen.alert.decided_at for seen in application.seen()) <= day(100)


def test_what_is_due_fires_before_the_next_record_is_applied() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(90))
    log.purchase("ann", day(91))
    application = Application().run(log.rows)
    assert application.steps("ann") == ["churn.raised", "churn.resolved"]


def test_without_a_clock_record_between_them_the_second_purchase_comes_first() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.purchase("ann", day(91))
    log.tick(day(91.1))
    assert Application().run(log.rows).steps("ann") == []


@pytest.mark.parametrize("limit", [1, 2, 5, 2000])
def test_a_jump_fires_in_order_of_instant_and_customer_in_several_steps(limit: int) -> None:
    log = Log()
    for number in range(30):
        log.purchase(f"c{number}", day(number % 3))
    log.tick(day(150))
    application = Application(limit=limit).run(log.rows)
    left = [(seen.alert.decided_at, seen.alert.customer) for seen in application.seen()]
    assert len(left) >= 30
    assert left == sorted(left)
    timers = application.turns[1:-1]
    assert all(turn.partition.applied == {PURCHASES: 29} for turn in timers), "the offset waits for the jump"
    assert all(turn.partition.clock == 0 for turn in timers), "so does the clock"
    assert application.partition.clock == day(150)
    if limit < 2000:
        assert len(timers) > 10


def test_customers_who_are_due_at_one_instant_fire_in_their_own_order() -> None:
    log = Log()
    names = [f"c{number}" for number in range(12)]
    for name in reversed(names):
        log.purchase(name, day(0))
        log.cart(name, day(1), "s1")
    log.tick(day(1.2))
    application = Application(limit=3).run(log.rows)
    raised = [s.alert for s in application.seen() if s.step == "upsell.raised"]
    assert [alert.customer for alert in raised] == sorted(names)
    assert {alert.decided_at for alert in raised} == {day(1) + hours(4)}


def test_a_deadline_that_was_stored_too_early_does_not_overtake_one_of_the_same_instant() -> None:
    log = Log(only=PURCHASES)
    log.cart("zoe", day(2) - HOUR, "s1")  # read early for this one; it moves with the next
    for name in ("zoe", "bob", "cas"):
        log.cart(name, day(2), "s2")
    log.tick(day(3))
    for limit in (1, 2, 3, 2000):
        application = Application(limit=limit, batch=1).run(log.rows)
        raised = [seen.alert for seen in application.seen()]
        assert [alert.customer for alert in raised] == ["bob", "cas", "zoe"]
        assert {alert.decided_at for alert in raised} == {day(2) + hours(4)}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("topics", [(PURCHASES,), INPUTS], ids=["one topic", "all topics"])
def test_a_crash_at_any_commit_ends_equal(topics: tuple[str, ...], when: Crash) -> None:
    only_one = topics[0] if len(topics) == 1 else None
    rows = mix.shop(3, customers=8, days=40, only=only_one).rows
    undisturbed = Application(topics, batch=7, limit=2).run(rows)
    random = Random(1)
    crashing = Application(topics, batch=7, limit=2, crash=lambda _: when if random.random() < 0.3 else None)
    assert crashing.run_through_crashes(rows) > 50
    assert crashing.out == undisturbed.out
    assert crashing.hot == undisturbed.hot
    assert crashing.cold == undisturbed.cold
    assert crashing.due == undisturbed.due
    assert crashing.partition == undisturbed.partition


def test_a_crash_in_the_middle_of_a_jump_fires_the_rest_afterwards() -> None:
    log = Log()
    for number in range(10):
        log.purchase(f"c{number}", day(0))
    log.tick(day(120))
    undisturbed = Application(limit=3).run(log.rows)
    crashing = Application(limit=3, crash=lambda number: "after" if number == 20 else None)
    with pytest.raises(Crashed):
        crashing.run(log.rows)
    assert crashing.partition.clock == 0
    crashing.start()
    crashing.run(log.rows)
    assert crashing.out == undisturbed.out


def test_a_store_that_goes_back_to_a_backup_tells_the_same_again() -> None:
    rows = mix.shop(4, customers=8, days=40, only=PURCHASES).rows
    application = Application(batch=7).run(rows[: len(rows) // 3])
    backup = application.stored()
    application.run(rows)
    first = application.by_customer()
    application.restore(backup)
    application.run(rows)
    assert application.by_customer() == first


def test_a_late_clock_record_fires_nothing_and_moves_nothing_back() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(60))
    application = Application().run(log.rows)
    fired, out = application.counts["fired",], len(application.out)
    log.tick(day(30))
    application.run(log.rows)
    assert application.partition.clock == day(60)
    assert application.partition.ticks == {PURCHASES: day(60)}
    assert (application.counts["fired",], len(application.out)) == (fired, out)
    assert application.counts["late",] == 1


def test_a_late_event_is_applied_and_counted_and_makes_nothing_due_in_the_past() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(60))
    application = Application().run(log.rows)
    log.purchase("bob", day(2))
    log.complaint("bob", day(3))
    log.cart("bob", day(4), "s1")
    log.view("bob", day(4), "tea")
    application.run(log.rows)
    assert application.counts["late",] == 4
    assert application.customer("bob").orders == 1
    standing = application.customer("bob").standing
    assert standing.look > day(60)
    assert standing.cart_due == 0
    assert standing.complaint_due == 0
    assert min(application.due.values()) > day(60)
    fired = application.counts["fired",]
    log.tick(day(60) + MINUTE)
    application.run(log.rows)
    assert application.counts["fired",] - fired <= 1, "at most a look that is due by chance"


def test_a_clock_record_that_does_not_move_the_clock_is_remembered() -> None:
    log = Log()
    log.tick(day(8), [PURCHASES])
    application = Application(TWO).run(log.rows)
    assert application.engine.tick(application.partition, BROWSES, Tick(0, day(7))) == day(7)
    assert application.engine.tick(application.partition, PURCHASES, Tick(1, day(9))) is None


def test_a_topic_that_is_added_later_holds_the_clock_until_it_has_a_clock_record() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(20))
    application = Application().run(log.rows)
    application.inputs = (PURCHASES, COMPLAINTS)
    application.start()
    log.tick(day(90), [PURCHASES])
    application.run(log.rows)
    assert application.partition.clock == day(20)
    log.tick(day(90), [COMPLAINTS])
    application.run(log.rows)
    assert application.partition.clock == day(90)


# ---- wall clock


def wall(rows: list[Row], *, live: int | None = None, batch: int = 2000) -> Application:
    application = Application(clock="wall", feeds=UNWATCHED, batch=batch).run(rows)
    if live is not None:
        application.go_live(live)
    return application


def test_clock_records_are_ignored_under_the_wall_clock() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(90))
    application = wall(log.rows, live=day(1))
    assert application.partition.clock == 0
    assert application.counts["fired",] == 0
    assert application.partition.applied == {PURCHASES: 1}
    assert application.counts["event", "clock"] == 1


def test_before_go_live_everything_is_history() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.purchase("ann", day(120))
    application = wall(log.rows, live=day(121))
    steps = [(seen.step, seen.withheld, seen.alert.history) for seen in application.seen("ann")]
    assert steps == [("churn.raised", "history", True), ("churn.resolved", "history", True)]


def test_a_silence_that_lasted_before_go_live_is_told_silently_and_what_follows_is_news() -> None:
    log = Log()
    log.purchase("ann", day(0))
    application = wall(log.rows, live=day(60))
    application.sweep(day(60.5))
    before = application.seen("ann")
    assert before
    assert {seen.withheld for seen in before} <= {"history", "silent"}
    application.sweep(day(300))
    after = application.seen("ann")[len(before) :]
    assert [seen.withheld for seen in after] == [None] * len(after)
    assert after[-1].step == "churn.expired"


def test_a_deadline_before_an_event_fires_first_at_its_own_instant() -> None:
    log = Log()
    log.purchase("ann", day(0))
    application = wall(log.rows, live=day(0) - 1)
    log.purchase("ann", day(90))
    application.run(log.rows)
    raised, resolved = application.seen("ann")
    assert (raised.step, resolved.step) == ("churn.raised", "churn.resolved")
    assert day(10) < raised.alert.decided_at < day(80)
    assert resolved.alert.decided_at == day(90)
    assert raised.alert.position == {PURCHASES: 0}, "the purchase had not been applied"
    assert resolved.alert.position == {PURCHASES: 1}


@pytest.mark.parametrize("batch", [1, 2, 2000])
def test_events_of_one_batch_have_their_deadlines_between_them(batch: int) -> None:
    log = Log()
    for number in range(3):
        log.purchase("ann", day(90 * number))
        log.purchase("bob", day(90 * number + 1))
    application = wall(log.rows, live=None, batch=batch)
    assert application.steps("ann") == ["churn.raised", "churn.resolved"] * 2
    positions = [seen.alert.position[PURCHASES] for seen in application.seen("ann")]
    assert positions == [1, 2, 3, 4]


def test_a_deadline_fires_only_as_far_as_the_other_topics_have_been_read() -> None:
    log = Log()
    log.purchase("ann", day(0))
    application = Application(TWO, clock="wall", feeds=UNWATCHED).run(log.rows)
    application.go_live(day(0) - 1)
    log.purchase("ann", day(90))
    application.run(log.rows, read_to=day(3))
    assert application.steps("ann") == [], "what is unread is no silence"


def test_a_sweep_in_steps_moves_the_clock_only_at_its_end() -> None:
    log = Log()
    for number in range(10):
        log.purchase(f"c{number}", day(0))
    application = wall(log.rows, live=day(0) - 1)
    application.limit = 3
    application.sweep(day(100))
    clocks = [turn.partition.clock for turn in application.turns]
    assert set(clocks) == {0, day(100)}
    assert clocks == sorted(clocks)
    left = [(seen.alert.decided_at, seen.alert.customer) for seen in application.seen()]
    assert left == sorted(left)
    assert len(left) >= 10


def test_a_late_event_makes_nothing_due_before_the_last_sweep() -> None:
    log = Log()
    log.purchase("ann", day(0))
    application = wall(log.rows, live=day(0) - 1)
    application.sweep(day(50))
    log.purchase("bob", day(20))
    log.cart("bob", day(21), "s1")
    log.complaint("bob", day(22))
    application.run(log.rows)
    assert min(application.due.values()) > day(50)


def test_a_cart_deadline_that_an_event_has_overtaken_is_replaced_and_a_complaints_is_kept() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(0.1))
    log.cart("ann", day(1), "s1")
    log.complaint("ann", day(1))
    log.complaint_update("ann", day(1.1), "resolved")
    log.complaint("ann", day(1.2), "c2")
    log.survey("ann", day(5), 3.0)
    application = Application().run(log.rows)
    standing = application.customer("ann").standing
    assert standing.cart_due == 0
    assert standing.complaint_due == day(1.2) + 2 * DAY
    assert standing.look > day(5)


def test_go_live_is_stored_with_the_partition() -> None:
    log = Log()
    log.purchase("ann", day(0))
    application = wall(log.rows, live=day(1))
    application.start()
    assert application.partition.live_since == day(1)


def test_the_time_of_a_decision_is_never_that_of_its_emission() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(365))
    application = Application(policy=Policy()).run(log.rows)
    raised = only([seen for seen in application.seen() if seen.step == "churn.raised"])
    assert raised.alert.decided_at < day(60)
    headers = dict(raised.message.headers)
    assert headers["ce_time"].decode() < "2026-03-02"
    assert (raised.alert.decided_at - START) > 0
