"""No floods: what is history is recorded, what was known before is silent, what is news is delivered."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from alerts.policy import Policy
from streams.topics import DECISIONS
from tests.application import Application, Log, Seen, day, hours, only
from tests.laws import mix


def told(found: list[Seen]) -> list[tuple[str, str | None]]:
    return [(seen.step, seen.withheld) for seen in found]


def archive(log: Log, *customers: str, until: float = 60.0) -> None:
    """Each customer bought once, long ago; the archive's clock goes on until the day ``until``."""
    for customer in customers:
        log.purchase(customer, day(0), history=True)
    log.tick(day(until), history=True)


# ---- history


def test_history_is_opened_and_recorded_on_decisions_and_never_delivered() -> None:
    log = Log()
    archive(log, "ann", "bob")
    application = Application().run(log.rows)
    assert application.seen(delivered=True) == []
    raised = application.seen("ann")
    assert told(raised) == [("churn.raised", "history")]
    assert raised[0].alert.history
    assert raised[0].message.topic == DECISIONS
    assert msgspec.json.decode(raised[0].message.value or b"")["withheld"] == "history"
    assert application.customer("ann").standing.churn is not None


def test_a_transition_after_history_is_delivered_though_its_episode_was_not() -> None:
    log = Log()
    archive(log, "ann")
    log.tick(day(65))
    log.tick(day(400))
    application = Application().run(log.rows)
    assert told(application.seen("ann"))[0] == ("churn.raised", "history")
    assert told(application.seen("ann"))[-1] == ("churn.expired", None)


def test_a_history_event_decides_as_history_though_the_clock_is_live() -> None:
    log = Log()
    log.tick(day(1))
    log.purchase("ann", day(1), history=True)
    log.lost("ann", day(2), history=True)
    application = Application().run(log.rows)
    assert told(application.seen("ann")) == [("churn.raised", "history")]


def test_a_live_event_decides_live_though_the_clock_is_history() -> None:
    log = Log()
    log.purchase("ann", day(1))
    log.lost("ann", day(2))
    log.tick(day(3), history=True)
    assert told(Application().run(log.rows).seen("ann")) == [("churn.raised", None)]


def test_what_is_delivered_in_a_whole_shop_was_caused_by_what_was_live() -> None:
    application = Application(batch=50).run(mix.shop(5, only="purchases", history_days=40).rows)
    delivered = [seen.alert for seen in application.seen(delivered=True)]
    assert len(delivered) > 20
    assert all(not alert.history for alert in delivered)
    history = [seen.alert for seen in application.seen() if seen.withheld == "history"]
    assert len(history) > 20
    assert all(alert.history for alert in history)


# ---- the first live decision


def test_only_the_first_live_decision_after_history_is_silent() -> None:
    log = Log()
    names = [f"c{number}" for number in range(60)]
    archive(log, *names, until=44)
    application = Application().run(log.rows)
    first = {name: application.customer(name).standing.look for name in names}
    assert {application.customer(name).standing.history for name in names} == {True}
    log.tick(day(364))
    application.run(log.rows)
    kinds: Counter[tuple[str, str | None]] = Counter()
    for name in names:
        for seen in application.seen(name):
            at = seen.alert.decided_at
            assert seen.withheld == (
                "history" if at < first[name] else "silent" if at == first[name] else None
            )
            kinds[seen.step, seen.withheld] += 1
    assert kinds["churn.raised", "history"] > 0
    assert kinds["churn.raised", "silent"] > 5
    assert kinds["churn.expired", None] == 60


def test_an_event_that_by_itself_causes_an_episode_is_delivered_at_the_first_live_decision() -> None:
    log = Log()
    archive(log, "ann", until=2)
    log.lost("ann", day(2.01))
    application = Application().run(log.rows)
    seen = only(application.seen("ann"))
    assert (seen.step, seen.withheld) == ("churn.raised", None)
    assert seen.alert.cause_event == "e2"


def test_an_episode_that_an_event_finds_already_due_is_silent() -> None:
    """An archive that ends long ago: at the first live event the customer is at risk anyway."""
    log = Log()
    log.purchase("ann", day(0), history=True)
    log.survey("ann", day(100), 9.0)
    application = Application().run(log.rows)
    assert told(application.seen("ann")) == [("churn.raised", "silent")]
    raised = only(application.seen("ann"))
    assert raised.alert.position == {"purchases": 0}, "decided on what was known before the survey"
    assert raised.alert.cause_event is None


def test_an_open_episode_that_the_first_live_event_ends_is_resolved_aloud() -> None:
    log = Log()
    archive(log, "ann")
    log.purchase("ann", day(61))
    application = Application().run(log.rows)
    assert told(application.seen("ann"))[-1] == ("churn.resolved", None)


def test_after_its_first_live_decision_a_customer_is_live() -> None:
    log = Log()
    archive(log, "ann", until=2)
    log.purchase("ann", day(3))
    log.tick(day(90))
    assert told(Application().run(log.rows).seen("ann")) == [
        ("churn.raised", None),
        ("churn.worsened", None),
    ]


def test_a_customer_with_no_earlier_state_is_never_silenced() -> None:
    log = Log()
    archive(log, "ann")
    log.purchase("new", day(61))
    log.lost("new", day(61.1))
    log.lost("stranger", day(61.2))
    application = Application().run(log.rows)
    assert told(application.seen("new")) == [("churn.raised", None)]


def test_what_only_views_of_an_archive_told_is_no_news() -> None:
    log = Log()
    for number in range(5):
        log.view("ann", day(1) + number, "tea", history=True)
    log.tick(day(1.1), history=True)
    log.survey("ann", day(1.2), 8.0)
    application = Application().run(log.rows)
    assert told(application.seen("ann")) == [("upsell.raised", "silent")]


def test_live_views_are_news() -> None:
    log = Log()
    for number in range(5):
        log.view("ann", day(1) + number, "tea")
    log.survey("ann", day(1.2), 8.0)
    application = Application().run(log.rows)
    assert told(application.seen("ann")) == [("upsell.raised", None)]


# ---- a new policy


STRICT = Policy(medium=0.9, high=0.99)


def changed(log: Log, policy: Policy) -> Application:
    """Read under a policy under which hardly anyone is at risk; then the policy is another."""
    application = Application(policy=STRICT).run(log.rows)
    assert application.seen() == []
    application.policy = policy
    application.start()
    return application


def test_after_a_new_policy_the_first_decision_is_silent_and_later_transitions_are_delivered() -> None:
    log = Log()
    for number in range(20):
        log.purchase(f"c{number}", day(0))
    log.tick(day(60))
    application = changed(log, Policy())
    log.tick(day(66))
    application.run(log.rows)
    assert Counter(told(application.seen())) == {("churn.raised", "silent"): 20}
    assert application.counts["alert", "churn", "raised", "silent"] == 20
    log.tick(day(400))
    application.run(log.rows)
    later = application.seen()[20:]
    assert len(later) >= 20
    assert {seen.withheld for seen in later} == {None}


def test_an_event_that_causes_an_episode_is_delivered_under_a_new_policy_too() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(1))
    application = changed(log, Policy())
    log.lost("ann", day(1.5))
    application.run(log.rows)
    assert told(application.seen("ann")) == [("churn.raised", None)]


def test_the_same_policy_after_a_restart_silences_nobody() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(2))
    application = Application().run(log.rows)
    application.start()
    log.tick(day(90))
    application.run(log.rows)
    assert told(application.seen("ann")) == [("churn.raised", None)]


def test_a_newer_prior_of_the_same_model_silences_nobody() -> None:
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(2))
    application = Application().run(log.rows)
    application.prior = msgspec.structs.replace(application.prior, version="prior-1", gap_days=30.0)
    application.start()
    log.tick(day(90))
    application.run(log.rows)
    seen = only(application.seen("ann"))
    assert (seen.step, seen.withheld) == ("churn.raised", None)
    assert seen.alert.versions.model == "prior-1"


# ---- the ceiling


def crowd(limit: int, batch: int = 2000) -> Application:
    """Thirty carts are left at once: all are due in one minute."""
    log = Log()
    for number in range(30):
        log.cart(f"c{number:02}", day(1), "s1")
    log.tick(day(1.18))
    for number in range(30):
        log.complaint(f"c{number:02}", day(1.2) + number)
    log.tick(day(2))
    return Application(policy=Policy(deliver_per_minute=limit), batch=batch).run(log.rows)


def test_the_ceiling_marks_what_is_not_delivered_and_records_it() -> None:
    application = crowd(10)
    raised = [seen for seen in application.seen() if seen.step == "upsell.raised"]
    assert len(raised) == 30
    withheld = [seen.withheld for seen in sorted(raised, key=lambda seen: seen.alert.customer)]
    assert withheld == [None] * 10 + ["ceiling"] * 20, "the first in order of instant and customer"
    assert {seen.message.topic for seen in raised[10:]} == {DECISIONS}
    assert application.counts["alert", "upsell", "raised", "ceiling"] == 20


def test_the_ceiling_never_changes_what_is_decided() -> None:
    def decided(limit: int) -> list[object]:
        application = crowd(limit)
        states = {key: application.customer(key) for key in application.hot}
        found: list[object] = [
            (s.alert.customer, s.step, s.alert.decided_at, s.alert.sequence) for s in application.seen()
        ]
        for key, state in sorted(states.items()):
            found.append((key, msgspec.structs.replace(state.standing, known=0)))
        return found

    assert decided(1) == decided(1_000_000)


def test_the_ceiling_is_per_minute_of_the_decision() -> None:
    application = crowd(10)
    complaints = [seen for seen in application.seen() if seen.step == "upsell.withdrawn"]
    assert Counter(seen.withheld for seen in complaints) == {None: 10, "ceiling": 20}
    minutes = {seen.alert.decided_at // 60_000_000 for seen in complaints}
    assert minutes == {day(1.2) // 60_000_000}
    assert len(application.partition.minutes) == 2


@pytest.mark.parametrize("batch", [1, 7, 2000])
def test_the_ceiling_counts_in_the_order_of_the_log_whatever_the_batches(batch: int) -> None:
    assert crowd(10, batch).by_customer() == crowd(10).by_customer()


def test_what_is_withheld_for_another_reason_does_not_use_up_the_ceiling() -> None:
    log = Log()
    for number in range(20):
        log.purchase(f"old{number}", day(0), history=True)
        log.lost(f"old{number}", day(1), history=True)
    log.purchase("new", day(0.9))
    log.lost("new", day(1) + hours(0.001))
    application = Application(policy=Policy(deliver_per_minute=1)).run(log.rows)
    assert told(application.seen("new")) == [("churn.raised", None)]
