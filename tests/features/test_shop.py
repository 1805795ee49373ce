from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.shop import DAY, HOUR, Calendar, Shop
from tests.application import START, day

# New York: a plain hour; Lord Howe: half an hour; St. John's: until 2011 one minute after midnight;
# Kathmandu: a quarter; Gaza and Monrovia: changes that fall within a quarter of an hour; Apia: a day
# that never was.
ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Africa/Monrovia",
    "Pacific/Apia",
)
CALENDARS = {zone: Calendar(Shop(time_zone=zone)) for zone in ZONES}


def micros(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


def naive(at: int, zone: str) -> tuple[int, int]:
    moment = datetime.fromtimestamp(at // 1_000_000, UTC).astimezone(ZoneInfo(zone))
    return moment.date().toordinal() - date(1970, 1, 1).toordinal(), moment.hour


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.integers(0, 4_000_000_000_000_000))
def test_local_days_and_hours_are_those_of_the_zone(zone: str, at: int) -> None:
    calendar = CALENDARS[zone]
    assert (calendar.day(at), calendar.local(at) // HOUR % 24) == naive(at, zone)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/New_York", "2026-03-08T07:00:00+00:00"),
        ("America/New_York", "2026-11-01T06:00:00+00:00"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00+00:00"),
        ("America/St_Johns", "2006-04-02T03:31:00+00:00"),
        ("America/St_Johns", "2006-10-29T02:31:00+00:00"),
        ("Asia/Gaza", "2012-03-29T22:00:00+00:00"),
        ("Africa/Monrovia", "1972-01-07T00:44:30+00:00"),
        ("Pacific/Apia", "2011-12-30T10:00:00+00:00"),
    ],
)
def test_around_a_change_every_second_has_its_day(zone: str, change: str) -> None:
    calendar = Calendar(Shop(time_zone=zone))
    center = micros(change)
    for second in (*range(-2_000, 2_000, 37), -1, 0, 1):
        at = center + second * 1_000_000
        assert (calendar.day(at), calendar.local(at) // HOUR % 24) == naive(at, zone), second


def test_a_day_of_23_or_25_hours_is_one_day() -> None:
    calendar = CALENDARS["America/New_York"]
    spring, autumn = micros("2026-03-08T05:00:00+00:00"), micros("2026-11-01T04:00:00+00:00")
    assert calendar.day(spring) + 1 == calendar.day(spring + 23 * HOUR)
    assert calendar.day(spring) == calendar.day(spring + 23 * HOUR - 1)
    assert calendar.day(autumn) == calendar.day(autumn + 25 * HOUR - 1)
    assert calendar.day(autumn) + 1 == calendar.day(autumn + 25 * HOUR)


def test_an_evening_purchase_belongs_to_the_shops_day_and_not_to_utcs() -> None:
    at = micros("2026-01-02T03:00:00+00:00")
    assert CALENDARS["America/New_York"].day(at) == CALENDARS["UTC"].day(at) - 1


def test_weekdays_count_from_monday() -> None:
    for number in range(10):
        at = day(number)
        moment = datetime.fromtimestamp(at / 1e6, UTC)
        assert Calendar.weekday(CALENDARS["UTC"].day(at)) == moment.weekday()


def test_what_is_remembered_of_a_zone_is_bounded() -> None:
    calendar = Calendar(Shop(time_zone="Europe/Berlin"))
    for number in range(120_000):
        calendar.local(START + number * 15 * 60_000_000)
    assert len(calendar._offsets) <= 100_001


def test_closing_days_are_local_days() -> None:
    calendar = Calendar(Shop(time_zone="America/New_York", closing_days=("2026-01-01",)))
    assert calendar.day(micros("2026-01-01T12:00:00+00:00")) in calendar.closed
    assert calendar.day(micros("2026-01-01T03:00:00+00:00")) not in calendar.closed
    assert calendar.day(micros("2026-01-01T12:00:00+00:00") + DAY) not in calendar.closed
