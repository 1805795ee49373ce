"""A silent feed is not a silent customer: is a topic's traffic far below what is usual?

Judged per partition from its own log, on the clock of its events. Traffic is counted by shop-local
hour. Complete days are folded into what is usual: an average per weekday and the shape of a day;
closing days and days on which the feed was down are left out.
A feed whose events carry dates only (all at local midnight) is judged by days.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from alerts.policy import Feeds
from features.shop import DAY, HOUR, Calendar

_WEIGHT = 0.25
_SHAPE_MEMORY = 0.9
_HOURS = DAY // HOUR


class Feed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One topic's traffic in one partition: ``hours``: events by local hour, not yet folded;
    ``folded``: the first local day that is not; ``days``: days folded; ``usual``: events a day by
    weekday (-1 before the first); ``shape``: decayed events by hour of day; ``timed``: some event
    carried a time of day."""

    hours: dict[int, int] = {}
    folded: int = 0
    days: int = 0
    usual: tuple[float, ...] = (-1.0,) * 7
    shape: tuple[float, ...] = (0.0,) * 24
    timed: bool = False


def counted(feed: Feed, instants: Iterable[int], clock: int, calendar: Calendar, settings: Feeds) -> Feed:
    """The feed after events at these instants, read while the partition's clock (0: not yet) stood at
    ``clock``; one on a folded day is left out."""
    start = 0
    if clock:
        feed = folded_to(feed, clock, calendar, settings)
        start = _unfolded(clock, calendar, settings)
    local = [calendar.local(at) for at in instants]
    if not local:
        return feed
    hours = dict(feed.hours)
    folded = feed.folded or max(local[0] // DAY, start)
    for hour, count in Counter([at // HOUR for at in local]).items():
        if hour // _HOURS >= folded:
            hours[hour] = hours.get(hour, 0) + count
    timed = feed.timed or any(at % DAY and at // DAY >= folded for at in local)
    return msgspec.structs.replace(feed, hours=hours, timed=timed, folded=folded)


def _unfolded(until: int, calendar: Calendar, settings: Feeds) -> int:
    """The first day that a window ending at ``until`` or later may need."""
    return calendar.day(until) - (settings.window_days + 1 + settings.window_hours // _HOURS)


def folded_to(feed: Feed, until: int, calendar: Calendar, settings: Feeds) -> Feed:
    """The feed with every day folded that no window ending at ``until`` or later needs."""
    if not feed.folded:
        return feed
    end = _unfolded(until, calendar, settings)
    if end <= feed.folded:
        return feed
    hours, usual, shape, days = dict(feed.hours), list(feed.usual), list(feed.shape), feed.days
    if end - feed.folded > 400:
        # A feed that stood still for over a year starts anew: nothing that old is usual.
        return Feed(
            hours={h: n for h, n in hours.items() if h // _HOURS >= end}, folded=end, timed=feed.timed
        )
    for day in range(feed.folded, end):
        counts = [hours.pop(day * _HOURS + hour, 0) for hour in range(_HOURS)]
        if day in calendar.closed:
            continue
        total = sum(counts)
        weekday = calendar.weekday(day)
        known = usual[weekday]
        if known >= settings.min_expected and total < settings.silent_below * known:
            # A feed that is down teaches nothing: however long it lasts, it does not become usual.
            continue
        usual[weekday] = float(total) if known < 0 else known + _WEIGHT * (total - known)
        shape = [_SHAPE_MEMORY * old + count for old, count in zip(shape, counts, strict=True)]
        days += 1
    return Feed(hours, end, days, tuple(usual), tuple(shape), feed.timed)


def window(feed: Feed, at: int, calendar: Calendar, settings: Feeds) -> tuple[float, float]:
    """Events in the window that ends at ``at``, and how many are usual in it (0: not known)."""
    # A weekday on which the shop has always been closed has no usual traffic, and needs none.
    usual = [max(events, 0.0) for events in feed.usual]
    local = calendar.local(at)
    seen = expected = 0.0
    if feed.timed:
        shape = sum(feed.shape)
        end = local // HOUR
        for hour in range(end - settings.window_hours, end):
            day = hour // _HOURS
            if day not in calendar.closed and shape > 0:
                expected += usual[calendar.weekday(day)] * feed.shape[hour % _HOURS] / shape
            seen += feed.hours.get(hour, 0)
    else:
        end = local // DAY
        for day in range(end - settings.window_days, end):
            if day not in calendar.closed:
                expected += usual[calendar.weekday(day)]
            seen += feed.hours.get(day * _HOURS, 0)
    return seen, expected


def silent(feed: Feed, at: int, calendar: Calendar, settings: Feeds) -> bool:
    """Whether the window that ends at ``at`` saw less than ``silent_below`` of what is usual, where
    enough is usual to tell."""
    if not settings.enabled or feed.days < settings.learn_days:
        return False
    seen, expected = window(feed, at, calendar, settings)
    return expected >= settings.min_expected and seen < settings.silent_below * expected
