"""Silence is never invented: a feed that stops is not a shop full of customers who left."""

from __future__ import annotations

from alerts.policy import Feeds
from features.shop import DAY
from streams.topics import BROWSES, PURCHASES
from tests.application import MINUTE, Application, Log, Row, day

FEEDS = Feeds(min_expected=15)
CUSTOMERS = [f"c{number:02}" for number in range(40)]
DOWN, BACK, END = 42, 84, 100


def shop(*, down: bool = True, timed: bool = True, until: int = END, leaver: str | None = None) -> Log:
    """Everyone buys every other day; the feed is down from day 42 to day 84. ``leaver`` stops at day 20."""
    log = Log()
    for number in range(until):
        if not (down and DOWN <= number < BACK):
            for index, customer in enumerate(CUSTOMERS):
                if index % 2 == number % 2 and not (customer == leaver and number >= 20):
                    moment = (8 * 60 + 17 * index) * MINUTE if timed else 0
                    log.purchase(customer, day(number) + moment)
        log.tick(day(number + 1))
    return log


def by_day(log: Log) -> list[list[Row]]:
    """The records up to each clock record."""
    days: list[list[Row]] = [[]]
    for row in log.rows:
        days[-1].append(row)
        if row.key == b"clock":
            days.append([])
    return days[:-1]


def churn(application: Application, first: float, last: float = 1_000) -> set[str]:
    """Who was warned of from one day to another."""
    return {
        seen.alert.customer
        for seen in application.seen()
        if seen.step in ("churn.raised", "churn.worsened") and day(first) <= seen.alert.decided_at < day(last)
    }


def test_without_this_law_the_shop_below_would_be_full_of_false_warnings() -> None:
    application = Application(feeds=Feeds(enabled=False)).run(shop().rows)
    assert len(churn(application, DOWN, BACK)) == len(CUSTOMERS)


def test_a_feed_that_stops_raises_no_warnings_however_long_it_is_down() -> None:
    application = Application(feeds=FEEDS).run(shop().rows)
    assert churn(application, DOWN, BACK) == set()
    assert application.counts["held",] > 10 * len(CUSTOMERS)


def test_a_feed_of_dates_that_stops_raises_no_warnings() -> None:
    application = Application(feeds=FEEDS).run(shop(timed=False).rows)
    assert churn(application, DOWN, BACK) == set()
    assert application.counts["held",] > 10 * len(CUSTOMERS)


def test_a_customer_who_left_before_is_warned_of_before_and_one_who_stays_is_not() -> None:
    application = Application(feeds=FEEDS).run(shop(leaver="c07").rows)
    assert churn(application, 0, DOWN) == {"c07"}


def test_operators_are_told_which_feed_is_silent_and_when_it_is_back() -> None:
    log = shop()
    application = Application(feeds=FEEDS)
    silent = []
    for rows in by_day(log):
        partition = application.run(rows).partition
        silent.append(application.engine.silent_feeds(partition, partition.clock) == [PURCHASES])
    days = {number + 1 for number, found in enumerate(silent) if found}
    assert days == set(range(DOWN + 1, BACK + 1))


def test_a_held_look_is_skipped_and_the_next_one_falls_on_the_grid() -> None:
    application = Application(feeds=FEEDS)
    grid = application.engine._grid
    for rows in by_day(shop()):
        application.run(rows)
        for name in CUSTOMERS:
            customer = application.customer(name)
            look = customer.standing.look
            if not look:
                continue
            assert grid.next(customer.last_decisive, grid.stagger(name), look - 1) == look
    assert application.counts["held",] > 0
    assert application.counts["look",] == application.counts["decision",] + application.counts["held",] - sum(
        each.orders for each in map(application.customer, CUSTOMERS)
    )


def test_no_look_is_held_where_too_little_is_expected_to_tell() -> None:
    application = Application(feeds=Feeds(min_expected=100)).run(shop().rows)
    assert application.counts["held",] == 0
    assert len(churn(application, DOWN, BACK)) == len(CUSTOMERS)


def test_the_end_of_the_file_is_no_silent_shop() -> None:
    """The last clock record may be later than the last event, but not by a day."""
    application = Application(feeds=FEEDS).run(shop(down=False).rows)
    assert application.counts["held",] == 0
    assert churn(application, 0) == set()


def test_one_silent_topic_holds_the_looks_though_another_goes_on() -> None:
    log = Log()
    for number in range(60):
        for index, customer in enumerate(CUSTOMERS):
            if number < DOWN and index % 2 == number % 2:
                log.purchase(customer, day(number) + index * 20 * MINUTE)
        for index, customer in enumerate(CUSTOMERS):
            log.view(customer, day(number) + index * 20 * MINUTE, "tea")
        log.tick(day(number + 1), (PURCHASES, BROWSES))
    application = Application((PURCHASES, BROWSES), feeds=FEEDS).run(log.rows)
    assert churn(application, DOWN) == set()
    assert application.engine.silent_feeds(application.partition, application.partition.clock) == [PURCHASES]


def test_a_topic_that_is_no_input_any_more_is_not_missed() -> None:
    log = Log()
    for number in range(48):
        for index, customer in enumerate(CUSTOMERS[:20]):
            if number < DOWN:
                log.purchase(customer, day(number) + index * 20 * MINUTE)
            log.view(customer, day(number) + index * 20 * MINUTE, "tea")
        log.tick(day(number + 1), (PURCHASES, BROWSES))
    application = Application((PURCHASES, BROWSES), feeds=FEEDS).run(log.rows)
    assert application.engine.silent_feeds(application.partition, day(48)) == [PURCHASES]
    application.inputs = (BROWSES,)
    application.start()
    assert application.engine.silent_feeds(application.partition, day(48)) == []


def test_unread_events_are_no_silence_under_the_record_clock() -> None:
    """The clock stands where the slowest topic stands; what that topic has not told is not missed."""
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(90), [PURCHASES])
    application = Application((PURCHASES, BROWSES)).run(log.rows)
    assert application.seen() == []
    log.tick(day(1), [BROWSES])
    assert application.run(log.rows).partition.clock == day(1)
    assert application.seen() == []
    assert day(1) < application.due[b"ann"] <= day(1) + 7 * DAY
