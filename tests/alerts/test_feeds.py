from __future__ import annotations

from collections.abc import Iterable

import pytest

from alerts.feeds import Feed, counted, folded_to, silent, window
from alerts.policy import Feeds
from features.shop import DAY, HOUR, Calendar, Shop
from tests.application import START, day

SETTINGS = Feeds(min_expected=50)
CALENDAR = Calendar(Shop())
PER_DAY = 100


def traffic(
    days: Iterable[int], *, calendar: Calendar = CALENDAR, settings: Feeds = SETTINGS, dates: bool = False
) -> Feed:
    """A hundred events on each of these days, evenly from 8 to 18 o'clock or as dates only; the clock is
    at the end of the day before."""
    feed = Feed()
    for number in days:
        instants = [day(number) + (0 if dates else 8 * HOUR + n * HOUR // 10) for n in range(PER_DAY)]
        feed = counted(feed, instants, day(number), calendar, settings)
    return feed


def asked(feed: Feed, at: int, calendar: Calendar = CALENDAR, settings: Feeds = SETTINGS) -> bool:
    return silent(folded_to(feed, at, calendar, settings), at, calendar, settings)


def test_a_feed_that_goes_on_is_not_silent() -> None:
    feed = traffic(range(40))
    assert not any(asked(feed, day(40) + hour * HOUR) for hour in range(8))


def test_a_feed_that_stops_is_silent_when_a_whole_window_is_missing() -> None:
    feed = traffic(range(40))
    # The last event is at 18 o'clock of day 39; a window of 24 hours is empty from 18 o'clock of day 40.
    found = [hour for hour in range(72) if asked(feed, day(40) + hour * HOUR)]
    assert found == list(range(18, 72))


def test_a_quiet_night_is_no_silence() -> None:
    feed = traffic(range(40))
    window = Feeds(min_expected=50, window_hours=6)
    assert not any(asked(feed, day(40) + hour * HOUR, settings=window) for hour in range(8))


def test_a_feed_of_dates_is_judged_by_days() -> None:
    feed = traffic(range(40), dates=True)
    assert not feed.timed
    assert [number for number in range(40, 48) if asked(feed, day(number) + HOUR)] == [43, 44, 45, 46, 47]


def test_a_little_traffic_is_silence_and_a_tenth_of_the_usual_is_not() -> None:
    feed = traffic(range(40))
    few = counted(feed, [day(40) + 9 * HOUR] * 9, day(40), CALENDAR, SETTINGS)
    enough = counted(feed, [day(40) + 9 * HOUR] * 10, day(40), CALENDAR, SETTINGS)
    assert asked(few, day(41))
    assert not asked(enough, day(41))


def test_where_too_little_is_expected_nothing_is_judged() -> None:
    feed = traffic(range(40))
    assert asked(feed, day(42))
    assert not asked(feed, day(42), settings=Feeds(min_expected=PER_DAY + 1))


def test_nothing_is_judged_before_it_has_learned_long_enough() -> None:
    assert not asked(traffic(range(13)), day(16))
    keep = SETTINGS.window_days + 1 + SETTINGS.window_hours // 24
    feed = traffic(range(SETTINGS.learn_days))
    assert folded_to(feed, day(SETTINGS.learn_days + keep), CALENDAR, SETTINGS).days == SETTINGS.learn_days
    assert asked(feed, day(SETTINGS.learn_days + keep))


def test_when_it_is_switched_off_no_feed_is_silent() -> None:
    assert not asked(traffic(range(40)), day(42), settings=Feeds(min_expected=50, enabled=False))


def test_a_closing_day_is_neither_expected_nor_learned() -> None:
    # START is a Thursday: day 40 is 2026-02-10, day 41 the 11th.
    calendar = Calendar(Shop(closing_days=("2026-02-10",)))
    feed = traffic(range(40), calendar=calendar)
    assert not asked(feed, day(41), calendar)
    assert asked(feed, day(41) + 18 * HOUR, calendar)
    open_again = traffic([*range(40), *range(41, 60)], calendar=calendar)
    assert min(folded_to(open_again, day(60), calendar, SETTINGS).usual) == pytest.approx(PER_DAY)


def test_a_shop_that_is_closed_every_sunday_is_judged_on_other_days() -> None:
    sundays = [number for number in range(60) if Calendar.weekday(CALENDAR.day(day(number))) == 6]
    dates = tuple(f"{y:04}-{m:02}-{d:02}" for y, m, d in map(_date, sundays))
    calendar = Calendar(Shop(closing_days=dates))
    feed = traffic([number for number in range(41) if number not in sundays], calendar=calendar)
    monday = next(number for number in range(41, 60) if Calendar.weekday(CALENDAR.day(day(number))) == 0)
    assert not asked(feed, day(monday), calendar), "a Sunday is no silence"
    assert asked(feed, day(monday + 1), calendar)


def _date(number: int) -> tuple[int, int, int]:
    from streams.events import to_datetime

    moment = to_datetime(day(number))
    return moment.year, moment.month, moment.day


def test_it_learns_what_is_usual_by_weekday() -> None:
    feed = Feed()
    for number in range(50):
        many = 200 if Calendar.weekday(CALENDAR.day(day(number))) == 5 else 20
        feed = counted(feed, [day(number) + 9 * HOUR] * many, day(number), CALENDAR, SETTINGS)
    learned = folded_to(feed, day(50), CALENDAR, SETTINGS)
    assert [round(n) for n in learned.usual] == [20, 20, 20, 20, 20, 200, 20]


def test_it_follows_a_shop_that_grows() -> None:
    feed = Feed()
    for number in range(90):
        feed = counted(feed, [day(number) + 9 * HOUR] * (number + 10), day(number), CALENDAR, SETTINGS)
    learned = folded_to(feed, day(90), CALENDAR, SETTINGS)
    assert all(60 < usual < 95 for usual in learned.usual)


def test_a_feed_that_is_down_teaches_nothing() -> None:
    feed = traffic(range(40))
    usual = folded_to(feed, day(45), CALENDAR, SETTINGS).usual
    after = folded_to(feed, day(200), CALENDAR, SETTINGS)
    assert after.usual == usual
    assert silent(after, day(200), CALENDAR, SETTINGS)


def test_a_feed_too_small_to_judge_learns_its_quiet_days_too() -> None:
    small = Feeds(min_expected=1_000)
    feed = traffic(range(40), settings=small)
    assert max(folded_to(feed, day(200), CALENDAR, small).usual) < 10


def test_after_more_than_a_year_a_feed_starts_anew() -> None:
    feed = traffic(range(40))
    assert folded_to(feed, day(900), CALENDAR, SETTINGS).days == 0


def test_an_event_of_a_day_that_is_folded_is_left_out() -> None:
    feed = folded_to(traffic(range(40)), day(60), CALENDAR, SETTINGS)
    assert counted(feed, [day(3)], day(60), CALENDAR, SETTINGS) == feed


def test_late_first_events_count_the_same_one_by_one_and_together() -> None:
    instants = [day(90) + HOUR, day(92) + HOUR, day(97) + HOUR, day(101)]
    together = counted(Feed(), instants, day(100), CALENDAR, SETTINGS)
    one_by_one = Feed()
    for at in instants:
        one_by_one = counted(one_by_one, [at], day(100), CALENDAR, SETTINGS)
    assert one_by_one == together
    assert sum(together.hours.values()) == 2


def test_how_often_it_is_folded_makes_no_difference() -> None:
    feed = traffic(range(60))
    daily = feed
    for number in range(60, 90):
        daily = folded_to(daily, day(number), CALENDAR, SETTINGS)
    assert daily == folded_to(feed, day(89), CALENDAR, SETTINGS)


def test_hours_kept_are_bounded_by_the_window() -> None:
    feed = folded_to(traffic(range(400)), day(400), CALENDAR, SETTINGS)
    assert len(feed.hours) <= 24 * 5


def test_local_hours_decide_what_a_day_is() -> None:
    calendar = Calendar(Shop(time_zone="Asia/Tokyo"))
    feed = counted(Feed(), [START + 16 * HOUR], 0, calendar, SETTINGS)
    assert feed.folded == START // DAY + 1


def test_of_a_window_it_is_told_what_came_and_what_is_usual() -> None:
    feed = folded_to(traffic(range(40)), day(40) + 18 * HOUR, CALENDAR, SETTINGS)
    seen, usual = window(feed, day(40) + 13 * HOUR, CALENDAR, SETTINGS)
    assert seen == 50  # the afternoon of the day before
    assert usual == pytest.approx(PER_DAY)
    assert window(Feed(), day(40), CALENDAR, SETTINGS) == (0, 0)
