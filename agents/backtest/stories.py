"""What the report tells of single customers: some lives with the moment of the warning, and the list of a Monday."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.backtest.report import date
from agents.backtest.run import Found, Warned
from agents.backtest.silences import NEVER

Ints = NDArray[np.int64]

LISTED: Final = 12
"""Customers shown of a Monday's list."""
_TELLING: Final = 4
"""Purchase days that make a life worth showing."""


class Story(NamedTuple):
    """A customer, why it is shown, and its days: purchases, the champion's probability as (day, value), warnings."""

    customer: str
    why: str
    purchases: list[int]
    probability: list[tuple[int, float]]
    warnings: list[int]


class Entry(NamedTuple):
    """A line of a Monday's list. ``silent``: days by then; ``why``: what spoke for leaving when the warning was raised;
    ``action``: the measure, and the cause where it is another than a lost rhythm; ``then``: what became of the customer, as we know today."""

    customer: str
    band: str
    probability: float
    silent: int
    why: str
    action: str
    revenue: float
    then: str
    left: bool | None


class Monday(NamedTuple):
    """The list of a Monday: who was warned of in the seven days before and had not bought since, the most revenue
    first; ``total`` of them, with ``revenue`` at risk."""

    date: str
    total: int
    revenue: float
    entries: list[Entry]


def stories(found: Found) -> list[Story]:
    """Some telling lives: two warnings in time, one that was wrong, one who was missed, one who just stayed."""
    judge, horizon = found.judge, found.asked.horizon
    warned = _first_warnings(found)
    picked: list[tuple[int, str]] = []
    sampled = set(found.traces)
    bought: dict[int, list[int]] = {place: [] for place in sampled}
    told: dict[str, list[tuple[float, int]]] = {"right": [], "wrong": [], "missed": [], "stayed": []}
    for index in np.flatnonzero(
        np.isin(judge.silences.customer, np.array(sorted(sampled), dtype=np.int64))
    ).tolist():
        bought[int(judge.silences.customer[index])].append(int(judge.silences.begin[index]))
    last_of: dict[int, int] = {}
    for index in np.flatnonzero(judge.judged).tolist():
        place = int(judge.silences.customer[index])
        if place not in sampled or len(bought[place]) < _TELLING:
            continue
        last_of[place] = index
        warning = warned.get(index)
        lost = bool(judge.lost[index])
        if warning is not None:
            lead = judge.silences.begin[index] + horizon - warning.day
            told["right" if lost else "wrong"].append((float(lead) * len(bought[place]) ** 0.5, place))
        elif lost:
            told["missed"].append((float(len(bought[place])), place))
    quiet = {place for place in last_of if not any(p == place for of in told.values() for _, p in of)}
    told["stayed"] = [(float(len(bought[place])), place) for place in quiet]
    reasons = {
        "right": "Warned of, and did not come back within the horizon.",
        "wrong": "Warned of, and came back all the same: a false alarm.",
        "missed": "Left without a warning in time.",
        "stayed": "Stayed, and was never warned of.",
    }
    for kind, many in (("right", 2), ("wrong", 1), ("missed", 1), ("stayed", 1)):
        taken = {place for place, _ in picked}
        ranked = sorted((entry for entry in told[kind] if entry[1] not in taken), key=lambda e: (-e[0], e[1]))
        # Not the extremes: they are told of too often.
        start = min(len(ranked) // 50, max(len(ranked) - many, 0))
        picked += [(place, reasons[kind]) for _, place in ranked[start : start + many]]
    days: dict[int, list[int]] = {}
    for each in found.warned:
        if each.step == "raised":
            days.setdefault(each.customer, []).append(each.day)
    return [
        Story(
            found.names[place].decode(),
            why,
            bought[place],
            found.traces[place],
            days.get(place, []),
        )
        for place, why in picked
    ]


def mondays(found: Found) -> list[Monday]:
    """The list of each Monday from a week after the first cut-off on."""
    judge = found.judge
    purchases = judge.silences
    raised = [each for each in found.warned if each.step == "raised"]
    if not raised:
        return []
    places = np.array([each.customer for each in raised], dtype=np.int64)
    at = np.array([each.day for each in raised], dtype=np.int64)
    silence = purchases.of(places, at)
    lists: dict[int, list[tuple[Warned, int]]] = {}
    for each, index in zip(raised, silence.tolist(), strict=True):
        if index < 0:
            continue
        monday = each.day - (each.day + 3) % 7 + 7
        if purchases.following[index] >= monday:
            lists.setdefault(monday, []).append((each, index))
    found_lists = []
    for monday in sorted(lists):
        if monday > found.last:
            continue
        entries = sorted(lists[monday], key=lambda entry: (-entry[0].revenue, entry[0].customer))
        found_lists.append(
            Monday(
                date(monday),
                len(entries),
                round(sum(each.revenue for each, _ in entries)),
                [_entry(found, each, index, monday) for each, index in entries[:LISTED]],
            )
        )
    return found_lists


def _entry(found: Found, warned: Warned, index: int, monday: int) -> Entry:
    purchases, horizon = found.judge.silences, found.asked.horizon
    begin, following = int(purchases.begin[index]), int(purchases.following[index])
    left: bool | None
    if following < NEVER:
        left = following - begin > horizon
        then = f"bought again on {date(following)}"
    elif found.last - begin >= horizon:
        left, then = True, "did not come back"
    else:
        left, then = None, "not known yet"
    # What speaks for leaving: a list says why somebody is on it.
    texts = [
        r.text
        for r in warned.alert.reasons
        if r.text and r.feature != "base" and (r.contribution or 0.0) > 0.0
    ]
    cause = warned.alert.cause
    because = f" ({cause})" if cause and cause != "lost_rhythm" else ""
    return Entry(
        found.names[warned.customer].decode(),
        warned.band,
        round(warned.probability, 2),
        monday - begin,
        " ".join(texts[:2]),
        ((warned.alert.action or "") + because).replace("_", " ").strip(),
        round(warned.revenue, 2),
        then,
        left,
    )


def _first_warnings(found: Found) -> dict[int, Warned]:
    """By silence the first warning in it, on customers who were active."""
    raised = [each for each in found.warned if each.step == "raised"]
    places = np.array([each.customer for each in raised], dtype=np.int64)
    days = np.array([each.day for each in raised], dtype=np.int64)
    first: dict[int, Warned] = {}
    for each, index in zip(raised, found.judge.silences.of(places, days).tolist(), strict=True):
        if index >= 0 and each.day - found.judge.silences.begin[index] < found.asked.horizon:
            first.setdefault(index, each)
    return first


def months(first: int, last: int) -> Sequence[tuple[int, str]]:
    """Where to write dates on a line that begins on day ``first``: (days since, label), eight at most."""
    begins = np.arange(
        np.datetime64(first, "D").astype("datetime64[M]") + 1, np.datetime64(last, "D"), dtype="datetime64[M]"
    )
    step = max(1, -(-len(begins) // 8))
    return [(int(day.astype("datetime64[D]").astype(np.int64)) - first, str(day)) for day in begins[::step]]
